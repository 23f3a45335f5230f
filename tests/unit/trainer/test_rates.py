"""The learning rate as a function of the step."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_contract import (
    ConstantSchedule,
    CosineSchedule,
    DecayShape,
    LinearSchedule,
    Schedule,
    WarmupStableDecaySchedule,
)
from finetune_trainer.rates import learning_rate, warmup_steps


def rates(schedule: Schedule, steps: int = 10) -> list[float]:
    return [learning_rate(step, total_steps=steps, schedule=schedule, peak=1.0) for step in range(1, steps + 1)]


def stable(shape: DecayShape, **changes: Any) -> WarmupStableDecaySchedule:
    return WarmupStableDecaySchedule.model_validate(
        {"warmup_ratio": 0.2, "decay_ratio": 0.4, "decay_shape": shape} | changes
    )


def test_warm_up_rises_in_equal_parts_and_reaches_the_peak() -> None:
    assert rates(ConstantSchedule(warmup_ratio=0.3)) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_warm_up_steps_go_before_the_ratio() -> None:
    schedule = ConstantSchedule(warmup_ratio=0.9, warmup_steps=1)
    assert rates(schedule) == pytest.approx([0.5] + [1.0] * 9)


def test_a_warm_up_longer_than_the_run_ends_with_it() -> None:
    assert rates(CosineSchedule(warmup_ratio=0.0, warmup_steps=1000), steps=4) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_linear_falls_in_equal_parts_and_spends_no_step_on_zero() -> None:
    assert rates(LinearSchedule(warmup_ratio=0.0)) == pytest.approx([1 - step / 10 for step in range(10)])


def test_cosine_ends_near_its_final_ratio() -> None:
    found = rates(CosineSchedule(warmup_ratio=0.0, final_ratio=0.1), steps=1000)
    assert found[0] == 1.0
    assert found[500] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1, abs=1e-4)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        (DecayShape.LINEAR, [1.0, 0.75, 0.5, 0.25]),
        (DecayShape.COSINE, [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        (DecayShape.SQUARE_ROOT, [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]),
    ],
)
def test_the_stable_schedule_rises_holds_and_falls(shape: DecayShape, fall: list[float]) -> None:
    assert rates(stable(shape)) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, *fall])


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_after_it() -> None:
    schedule = stable(DecayShape.LINEAR, warmup_ratio=0.5, decay_ratio=1.0)
    assert rates(schedule) == pytest.approx(rates(LinearSchedule(warmup_ratio=0.5)))


SCHEDULES = st.one_of(
    st.builds(CosineSchedule, warmup_ratio=st.floats(0, 0.99), final_ratio=st.floats(0, 1)),
    st.builds(LinearSchedule, warmup_ratio=st.floats(0, 0.99), final_ratio=st.floats(0, 1)),
    st.builds(ConstantSchedule, warmup_ratio=st.floats(0, 0.99), warmup_steps=st.none() | st.integers(0, 300)),
    st.builds(
        WarmupStableDecaySchedule,
        warmup_ratio=st.floats(0, 0.99),
        decay_ratio=st.floats(0.01, 1),
        decay_shape=st.sampled_from(DecayShape),
        final_ratio=st.floats(0, 1),
    ),
)


@given(schedule=SCHEDULES, steps=st.integers(1, 200))
def test_every_schedule_rises_to_its_peak_once_and_then_only_falls(schedule: Schedule, steps: int) -> None:
    found, warmup = rates(schedule, steps), warmup_steps(schedule, steps)
    assert all(0 < rate <= 1 for rate in found)
    assert found[warmup] == 1.0
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)

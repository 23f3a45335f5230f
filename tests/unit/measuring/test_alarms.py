"""Alarms begin at the guide's limits, end a little beyond them, and name a field to turn."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finetune_contract import Alarm, Indicator, Indicators, Parallelism
from finetune_trainer.measuring.alarms import LIMITS, alarms, remedy

DDP: Parallelism = TypeAdapter[Parallelism](Parallelism).validate_python({"type": "DDP"})


def told(before: tuple[Alarm, ...] = (), /, now: float = 100.0, **values: Any) -> tuple[Alarm, ...]:
    return alarms(Indicators(**values), before, DDP, now=now)


CASES = [
    ("gpu_utilisation_ratio", Indicator.GPU_UTILISATION, 0.80, 0.799, 0.849, 0.85),
    ("memory_imbalance_ratio", Indicator.MEMORY_BALANCE, 1.20, 1.201, 1.151, 1.15),
    ("communication_ratio", Indicator.COMMUNICATION, 0.10, 0.101, 0.081, 0.08),
    ("straggler_ratio", Indicator.STRAGGLER, 1.30, 1.301, 1.201, 1.20),
    ("loss_trend_ratio", Indicator.LOSS, 0.05, 0.051, 0.001, 0.0),
    ("loss_since_start_ratio", Indicator.LOSS, -0.01, -0.009, -0.019, -0.02),
]


@pytest.mark.parametrize(("field", "indicator", "limit", "bad", "still_bad", "good"), CASES)
def test_each_alarm_begins_beyond_its_limit_and_ends_on_its_good_side(
    field: str, indicator: Indicator, limit: float, bad: float, still_bad: float, good: float
) -> None:
    assert told(**{field: limit}) == ()
    (raised,) = told(**{field: bad})
    assert (raised.indicator, raised.value, raised.threshold, raised.since) == (indicator, bad, limit, 100.0)
    assert told(**{field: still_bad}) == (), "it does not begin there"
    (kept,) = told((raised,), now=900.0, **{field: still_bad})
    assert (kept.value, kept.since) == (still_bad, 100.0), "the figure is new, the beginning is not"
    assert told((raised,), now=900.0, **{field: good}) == ()


def test_every_limit_has_a_case() -> None:
    assert [(limit.field, limit.begins) for limit in LIMITS] == [(field, begins) for field, _, begins, *_ in CASES]
    assert {limit.indicator for limit in LIMITS} == set(Indicator)


def test_what_is_not_measured_alarms_nobody() -> None:
    raised = told(communication_ratio=0.5)
    assert alarms(Indicators(), (), DDP, now=0.0) == ()
    assert alarms(Indicators(), raised, DDP, now=0.0) == ()


def test_the_loss_has_one_alarm_at_most() -> None:
    (both,) = told(loss_trend_ratio=0.5, loss_since_start_ratio=0.5)
    assert both.threshold == 0.05
    (other,) = told((both,), now=900.0, loss_trend_ratio=0.0, loss_since_start_ratio=0.5)
    assert (other.threshold, other.since) == (-0.01, 100.0)


@given(st.lists(st.floats(0.081, 0.0999), min_size=2, max_size=50))
def test_jitter_between_the_limits_never_changes_an_alarm(values: list[float]) -> None:
    quiet: tuple[Alarm, ...] = ()
    loud = told(communication_ratio=0.2)
    for value in values:
        quiet, loud = told(quiet, communication_ratio=value), told(loud, communication_ratio=value)
        assert (len(quiet), len(loud)) == (0, 1)


STRATEGIES: list[dict[str, Any]] = [
    {"type": "DDP"},
    {"type": "FSDP", "reshard_after_forward": True, "cpu_offload": False},
    {"type": "DeepSpeed", "stage": 2},
]


def test_communication_is_mended_where_the_strategy_allows() -> None:
    made = [TypeAdapter[Parallelism](Parallelism).validate_python(each) for each in STRATEGIES]
    assert {type(each) for each in made} == set(get_args(get_args(Parallelism)[0])), "each strategy is here"
    texts = [remedy(Indicator.COMMUNICATION, Indicators(), each) for each in made]
    for text, field in zip(texts, ("globalBatch", "reshardAfterForward", "reduceBucketElements"), strict=True):
        assert field in text


def test_an_idle_gpu_is_told_what_it_waits_for() -> None:
    def advice(**values: float) -> str:
        return remedy(Indicator.GPU_UTILISATION, Indicators(gpu_utilisation_ratio=0.5, **values), DDP)

    assert "wait for data" in advice(data_wait_ratio=0.06)
    assert "wait for one another" in advice(data_wait_ratio=0.05, communication_ratio=0.11)
    assert "microBatch" in advice(data_wait_ratio=0.05, communication_ratio=0.10)


def test_a_straggler_is_told_where_to_look() -> None:
    assert "cache volume" in remedy(Indicator.STRAGGLER, Indicators(data_wait_ratio=0.06), DDP)
    assert "nvidia-smi" in remedy(Indicator.STRAGGLER, Indicators(data_wait_ratio=0.05), DDP)
    assert len(remedy(Indicator.STRAGGLER, Indicators(), DDP)) <= 400

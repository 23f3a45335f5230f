"""Which sequences every step takes, with a batch that grows or does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_contract import BatchConfig, Steps, StepSlice


def batch(
    global_sequences: int, first: int | None = None, share: float = 0.5, cut: tuple[int, int] = (1, 1)
) -> BatchConfig:
    ramp = None if first is None else {"from_sequences": first, "share": share, "scale_rate": False}
    micro, world = cut
    return BatchConfig.model_validate(
        {
            "global_sequences": global_sequences,
            "micro_sequences": micro,
            "accumulation_steps": global_sequences // (micro * world),
            "world_size": world,
            "ramp": ramp,
        }
    )


def slices(steps: Steps) -> list[StepSlice]:
    return [steps[number] for number in range(1, steps.total + 1)]


def test_the_batch_doubles_in_equal_parts_of_the_share() -> None:
    steps = Steps(100, batch(16, 4, share=0.3), epochs=2, max_steps=None)
    sizes = [part.global_sequences for part in slices(steps)]
    assert sizes == [4] * 8 + [8] * 4 + [16] * 10
    assert steps.whole_from == 13
    assert batch(24, 4).sizes == (4, 8, 16, 24)


@given(
    sequences=st.integers(1, 300),
    first=st.integers(1, 4),
    times=st.integers(1, 9),
    share=st.sampled_from((0.01, 0.1, 0.3, 1.0)),
    epochs=st.sampled_from((0.5, 1.0, 2.0, 2.3, 7.0)),
)
def test_no_sequence_is_left_out_or_seen_twice(
    sequences: int, first: int, times: int, share: float, epochs: float
) -> None:
    steps = Steps(sequences, batch(first * times, first, share), epochs=epochs, max_steps=None)
    epoch, begin = 0, 0
    sizes = []
    for part in slices(steps):
        if begin >= sequences:
            epoch, begin = epoch + 1, 0
        assert (part.epoch, part.begin) == (epoch, begin)
        begin += part.global_sequences
        sizes.append(part.global_sequences)
    assert sizes == sorted(sizes)
    assert epoch == math.ceil(epochs) - 1
    assert epochs % 1 or begin >= sequences
    assert set(sizes[steps.whole_from - 1 :]) <= {first * times}


@given(sequences=st.integers(1, 10_000), size=st.integers(1, 64), epochs=st.floats(0.01, 50))
def test_without_growth_an_epoch_has_equal_steps(sequences: int, size: int, epochs: float) -> None:
    per_epoch = -(-sequences // size)
    steps = Steps(sequences, batch(size), epochs=epochs, max_steps=None)
    assert steps.total == pytest.approx(epochs * per_epoch, abs=1.000001)
    assert steps.total >= epochs * per_epoch - 1e-5
    last = steps[steps.total]
    assert (last.epoch, last.begin) == ((steps.total - 1) // per_epoch, (steps.total - 1) % per_epoch * size)


@pytest.mark.parametrize(
    ("sequences", "size", "epochs", "max_steps", "expected"),
    [(66, 16, 3, None, 15), (5, 2, 0.5, None, 2), (300, 10, 0.1, None, 3), (66, 16, 3, 4, 4), (1, 16, 0.01, None, 1)],
)  # 0.1 x 30 is a hair above 3
def test_steps_of_a_run(sequences: int, size: int, epochs: float, max_steps: int | None, expected: int) -> None:
    assert Steps(sequences, batch(size), epochs=epochs, max_steps=max_steps).total == expected


@given(cut=st.sampled_from(((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4))), sequences=st.integers(1, 100))
def test_how_the_batch_is_cut_changes_no_step(cut: tuple[int, int], sequences: int) -> None:
    alone = Steps(sequences, batch(16, 4), epochs=2, max_steps=None)
    assert slices(Steps(sequences, batch(16, 4, cut=cut), epochs=2, max_steps=None)) == slices(alone)


@pytest.mark.parametrize(("first", "cut"), [(3, (1, 1)), (2, (2, 2)), (2, (1, 4))])
def test_a_batch_that_cannot_begin_so_small_is_refused(first: int, cut: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="must divide global_sequences 16, and be a multiple"):
        batch(16, first, cut=cut)

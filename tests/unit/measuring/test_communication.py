"""What is exposed of communication, and that real collectives are found in a real trace."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.measuring.communication import (
    CommunicationProbe,
    Interval,
    Share,
    Window,
    length,
    overlap,
    share,
    union,
    window,
)

CPU = torch.device("cpu")
INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))))


def ticks(intervals: list[Interval]) -> set[int]:
    return {tick for begin, end in intervals for tick in range(begin, end)}


@given(INTERVALS, INTERVALS)
def test_intervals_are_sets_of_moments(first: list[Interval], second: list[Interval]) -> None:
    one, other = union(first), union(second)
    assert length(one) == len(ticks(first))
    assert overlap(one, other) == overlap(other, one) == len(ticks(first) & ticks(second))
    assert all(left[1] < right[0] for left, right in pairwise(one))


def test_what_overlaps_with_computation_is_not_exposed() -> None:
    billion = 10**9
    found = window(10.0, [(0, 4 * billion), (3 * billion, 6 * billion)], [(2 * billion, 5 * billion)])
    assert found == Window(seconds=10.0, exposed=3.0, total=6.0)


def test_the_first_micro_batch_stands_for_all_but_the_last() -> None:
    quiet, loud = Window(seconds=1.0, exposed=0.0, total=0.1), Window(seconds=2.0, exposed=0.5, total=1.0)
    assert share(None, loud, 1) == Share(exposed=0.25, total=0.5)
    assert share(quiet, loud, 9) == Share(exposed=0.05, total=0.18)


@pytest.mark.parametrize("micro_batches", [1, 2, 5])
def test_a_probe_measures_at_its_steps_alone(micro_batches: int) -> None:
    probe = CommunicationProbe(CPU, first_step=2, every_steps=3)
    measured = []
    for _ in range(6):
        for index in range(micro_batches):
            probe.pass_begins(index, micro_batches)
            torch.ones(100, 100) @ torch.ones(100, 100)
        measured.append(probe.step_done(micro_batches))
    assert [each is not None for each in measured] == [False, True, False, False, True, False]
    assert measured[1] == Share(exposed=0.0, total=0.0)


def test_a_step_that_was_broken_off_leaves_no_trace_behind() -> None:
    probe = CommunicationProbe(CPU, first_step=1, every_steps=1)
    probe.pass_begins(0, 3)  # and the step is stopped here
    probe.pass_begins(0, 3)
    probe.pass_begins(1, 3)
    probe.pass_begins(2, 3)
    assert probe.step_done(3) == Share(exposed=0.0, total=0.0)


def test_collectives_are_found_and_told_from_computation(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        probe = CommunicationProbe(CPU, first_step=1, every_steps=1)
        values = torch.ones(4_000_000)
        probe.pass_begins(0, 1)
        dist.all_reduce(values)
        exposed = probe.step_done(1)
        assert exposed is not None
        assert 0 < exposed.exposed <= exposed.total <= 1
    finally:
        dist.destroy_process_group()

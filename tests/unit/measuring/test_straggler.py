"""Which rank counts as slow, and for how long it has to be."""

import math

import pytest

from finetune_trainer.measuring.communication import CommunicationProbe
from finetune_trainer.measuring.readings import Reading, Sample
from finetune_trainer.measuring.straggler import SAMPLES, Slowest, Stragglers, slowest
from unit.measuring.test_communication import CPU


def sample(*ranks: tuple[float, float]) -> Sample:
    """Of 10 seconds; (seconds of waiting for data, exposed share of communication) of each rank."""
    readings = tuple(Reading(data_wait_seconds=wait, communication_exposed=exposed) for wait, exposed in ranks)
    return Sample(seconds=10.0, tokens=1, supervised_tokens=1, ranks=readings)


def test_who_waits_least_for_the_others_is_the_slowest() -> None:
    assert slowest(sample((0, 0.5), (0, 0.5), (0, 0.0), (0, 0.5))) == Slowest(2, 2.0)
    assert slowest(sample((0, 0.0), (0, 0.2))) == Slowest(0, 1.25), "of two, the other one is the measure"


def test_a_rank_that_waits_for_its_own_data_is_slow_too() -> None:
    found = slowest(sample((0, 0.5), (5, 0.0), (0, 0.5)))
    assert found == Slowest(1, 2.0)


def test_ranks_that_are_alike_are_balanced() -> None:
    assert slowest(sample((1, 0.3), (1, 0.3))) == Slowest(0, 1.0)


def test_nothing_is_said_where_a_rank_is_not_measured_or_alone() -> None:
    assert slowest(sample((0, 0.5), (0, math.nan))) is None
    assert slowest(sample((0, 0.5))) is None


def test_a_rank_that_does_nothing_but_wait_divides_nothing_by_zero() -> None:
    found = slowest(sample((0, 0.0), (0, 1.0)))
    assert found is not None
    assert math.isfinite(found.ratio)


def test_one_slow_sample_is_no_straggler() -> None:
    seen = Stragglers()
    seen.add(Slowest(1, 2.0))
    assert (seen.ratio, seen.is_suspicious) == (None, True)
    for _ in range(SAMPLES - 1):
        seen.add(Slowest(1, 1.5))
    assert seen.ratio == 1.5
    seen.add(Slowest(0, 1.4))
    assert (seen.ratio, seen.is_suspicious) == (1.0, True)
    seen.add(None)
    seen.add(Slowest(0, 1.1))
    assert not seen.is_suspicious


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_probe_measures_when_it_is_asked(micro_batches: int) -> None:
    probe = CommunicationProbe(CPU, first_step=10**9)
    measured = []
    for step in range(4):
        if step == 1:
            probe.ask()
        for index in range(micro_batches):
            probe.pass_begins(index, micro_batches)
        measured.append(probe.step_done(micro_batches) is not None)
    assert measured == [False, True, False, False]

"""How a stop is agreed upon, and what is left of the grace."""

import threading
import time
from dataclasses import dataclass

import pytest
import torch

from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError
from finetune_trainer.stopping import (
    READS_BETWEEN_QUESTIONS,
    Deadline,
    StopAgreedError,
    exit_seconds,
    heeding,
    on_main_unless_stopped,
    unless_stopped,
    wait_for_all,
)


@dataclass
class ToldAfter:
    """Told to stop while it asks for the n-th time."""

    questions: int
    seconds: float = 0.0

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        self.questions -= 1
        return self.questions <= 0


NEVER = ToldAfter(10**9)


def test_long_work_gives_its_answer_or_its_error(alone: World) -> None:
    assert unless_stopped(alone, NEVER, lambda: 7).result() == 7
    assert on_main_unless_stopped(alone, NEVER, lambda: "done") == "done"
    with pytest.raises(AgreedError, match="broken"):
        on_main_unless_stopped(alone, NEVER, _broken)


def _broken() -> str:
    raise ValueError("broken")


def test_a_stop_does_not_wait_for_long_work(alone: World) -> None:
    gate = threading.Event()
    try:
        with pytest.raises(StopAgreedError):
            on_main_unless_stopped(alone, ToldAfter(3), lambda: str(gate.wait(60)))
    finally:
        gate.set()


def test_what_has_ended_counts_although_there_is_a_stop(alone: World) -> None:
    assert wait_for_all(alone, lambda _: True, lambda: True)
    assert not wait_for_all(alone, lambda _: False, lambda: True)


def test_reading_asks_at_the_first_tensor_and_then_now_and_again() -> None:
    asked: list[int] = []
    reads = 0

    def source(name: str, rows: slice) -> torch.Tensor:
        nonlocal reads
        reads += 1
        return torch.zeros(1)

    read = heeding(source, lambda: asked.append(reads))
    for _ in range(3 * READS_BETWEEN_QUESTIONS):
        read("a", slice(None))
    assert asked == [0, READS_BETWEEN_QUESTIONS, 2 * READS_BETWEEN_QUESTIONS]


@pytest.mark.parametrize(("grace", "kept"), [(5, 2.0), (30, 3.0), (300, 15.0), (3600, 15.0)])
def test_a_part_of_the_grace_is_kept_for_the_way_out(alone: World, grace: int, kept: float) -> None:
    assert exit_seconds(grace) == kept
    told = ToldAfter(0, seconds=1.0)
    left = Deadline.of(alone, told, grace).at - time.monotonic()
    assert left == pytest.approx(grace - kept - 1.0, abs=0.5)
    assert not Deadline.of(alone, told, grace).is_over
    assert Deadline.of(alone, ToldAfter(0, seconds=grace), grace).is_over

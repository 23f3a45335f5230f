"""How all ranks stop at the same place, whatever they are doing and whichever of them was told to.

Nothing here touches a device: ranks agree over the control group, between two passes or while they wait for a thread.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from torch import Tensor

from finetune_trainer import pulse
from finetune_trainer.distributed import World, any_rank, maxima, on_main
from finetune_trainer.model import Source

SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.2
"""Seconds between two questions of ranks that wait: short work ends at once, long work is not disturbed."""

READS_BETWEEN_QUESTIONS: Final = 32
"""Tensors that are read between two questions while a model or a checkpoint is loaded."""

T = TypeVar("T")


class Stop(Protocol):
    """Whether this process has been told to stop."""

    @property
    def requested(self) -> bool:
        """True from the first signal on."""

    @property
    def seconds(self) -> float:
        """Since the first signal; 0 before."""


class StopAgreedError(Exception):
    """All ranks have agreed to stop; raised between two passes, when no collective is under way."""


def stop_if_told(world: World, stop: Stop) -> None:
    """Raise StopAgreedError on every rank if any of them has been told to stop by now."""
    if any_rank(world, stop.requested):
        raise StopAgreedError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a stopped run must have saved what it can; ranks ask it together, since their clocks differ."""

    at: float
    """Seconds of this process's monotonic clock."""

    @classmethod
    def of(cls, world: World, stop: Stop, grace_seconds: float) -> "Deadline":
        """Leaves a part of the grace for the way out; counted from the first signal that any rank got."""
        (elapsed,) = maxima(world, [stop.seconds])
        return cls(time.monotonic() + grace_seconds - exit_seconds(grace_seconds) - elapsed)

    @property
    def is_over(self) -> bool:
        """By this process's clock."""
        return time.monotonic() >= self.at


NEVER: Final = Deadline(math.inf)


def exit_seconds(grace_seconds: float) -> float:
    """What is kept of the grace for writing the outcome and ending the processes."""
    return min(15.0, max(2.0, grace_seconds / 10))


def wait_for_all(world: World, has_ended: Callable[[float], bool], leave: Callable[[], bool]) -> bool:
    """Wait until `has_ended(pause in seconds)` is true on every rank; False once `leave()` is true on any of them.

    Waiting is no sign of life, but what is done meanwhile is, and it counts for every rank that waits for it.
    """
    pause, seen = 0.0, pulse.own.count
    while True:
        has_own_ended = has_ended(pause)
        count = pulse.own.count
        waiting, leaving, moving = maxima(world, [float(not has_own_ended), float(leave()), float(count - seen)])
        seen = count
        if moving:
            pulse.own.beat()
            seen += 1
        if not waiting:
            return True
        if leaving:
            return False
        pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, 2 * pause))


class Task(threading.Thread, Generic[T]):
    """Something done in a thread, which is left behind when the process ends."""

    def __init__(self, name: str, action: Callable[[], T]) -> None:
        super().__init__(name=name, daemon=True)
        self._action = action
        self._answers: list[T] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Called by the thread."""
        try:
            self._answers.append(self._action())
        except BaseException as error:
            self._error = error
        self._ended.set()

    def has_ended(self, seconds: float) -> bool:
        """Whether it has, or does within so many seconds."""
        return self._ended.wait(seconds)

    def result(self) -> T:
        """What it came to, or raises what it raised; only once it has ended."""
        if self._error is not None:
            raise self._error
        return self._answers[0]


def unless_stopped(world: World, stop: Stop, action: Callable[[], T]) -> Task[T]:
    """Every rank does its own long `action`, without collectives, in a thread; returns them ended.

    Raises: StopAgreedError on every rank once any of them is told to stop; the threads are left to themselves.
    """
    task = Task("long", action)
    task.start()
    if not wait_for_all(world, task.has_ended, lambda: stop.requested):
        raise StopAgreedError
    return task


def on_main_unless_stopped(world: World, stop: Stop, action: Callable[[], str]) -> str:
    """As distributed.on_main, for what takes long. Raises StopAgreedError as `unless_stopped` does."""
    task = unless_stopped(world, stop, action if world.is_main else str)
    return on_main(world, task.result)


def heeding(source: Source, ask: Callable[[], None]) -> Source:
    """`source` that also asks, so that a stop is heeded while it is read; all ranks read alike often."""
    reads = 0

    def read(name: str, rows: slice) -> Tensor:
        nonlocal reads
        reads += 1
        if reads % READS_BETWEEN_QUESTIONS == 1:
            ask()
        return source(name, rows)

    return read

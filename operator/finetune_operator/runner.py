"""When passes run: for one run never two at once, and whatever happens during a pass leads to exactly one more.

Knows neither Kubernetes nor what a pass does. Every run has a lane: a task while passes run, a timer for the next look,
and a count of failed passes in a row, each of which doubles the wait for the next.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

CONCURRENT_PASSES = 32
"""A pass mostly waits for the API server; more at once would only queue there."""
SETTLE_SECONDS = 0.1
"""Between a wake and its pass: a Job, its pods and their scheduling come in a burst, and are worth one look."""
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Lane:
    is_woken: bool = False
    task: "asyncio.Task[None] | None" = None
    timer: asyncio.TimerHandle | None = None
    failures: int = 0
    began_at: float | None = None


class Runner(Generic[Key]):
    """Calls `one_pass(key)` when woken; it returns the seconds until the next look, or None for "when woken"."""

    def __init__(self, one_pass: Callable[[Key], Awaitable[float | None]]) -> None:
        self._one_pass = one_pass
        self._lanes: dict[Key, _Lane] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_PASSES)
        self._is_closed = False

    def wake(self, key: Key) -> None:
        """A pass over `key` begins after this call; soon, unless one is under way."""
        if self._is_closed:
            return
        lane = self._lanes.setdefault(key, _Lane())
        lane.is_woken = True
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._drain(key, lane), name=f"pass over {key}")

    def longest_pass_seconds(self) -> float:
        """For how long the oldest pass that is under way has been so; 0: none is."""
        began = [lane.began_at for lane in self._lanes.values() if lane.began_at is not None]
        return asyncio.get_running_loop().time() - min(began) if began else 0.0

    async def close(self) -> None:
        """Cancels every pass and timer; nothing runs afterwards. A pass may be cut anywhere: it is made for that."""
        self._is_closed = True
        lanes, self._lanes = tuple(self._lanes.values()), {}
        tasks = [lane.task for lane in lanes if lane.task is not None]
        for lane in lanes:
            if lane.timer is not None:
                lane.timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, key: Key, lane: _Lane) -> None:
        next_look_seconds: float | None = None
        while lane.is_woken:
            await asyncio.sleep(SETTLE_SECONDS)
            async with self._slots:
                lane.is_woken = False
                next_look_seconds = await self._guarded(key, lane)
        lane.task = None
        if self._is_closed:
            return
        if next_look_seconds is not None:
            lane.timer = asyncio.get_running_loop().call_later(next_look_seconds, self.wake, key)
        elif lane.failures == 0:
            del self._lanes[key]

    async def _guarded(self, key: Key, lane: _Lane) -> float | None:
        """One pass. Whatever it raises becomes a wait: one run's trouble is no other run's."""
        lane.began_at = asyncio.get_running_loop().time()
        try:
            next_look_seconds = await self._one_pass(key)
        except Exception as error:
            lane.failures += 1
            wait_seconds = retry_seconds(lane.failures)
            details = {"run": str(key), "failures": lane.failures, "retry_seconds": round(wait_seconds, 1)}
            # an answer that the API server gave says all by itself; of a bug of ours we want the stack
            logger.warning("pass over %s failed: %s", key, error, extra=details, exc_info=not _explains_itself(error))
            return wait_seconds
        finally:
            lane.began_at = None
        lane.failures = 0
        return next_look_seconds


def retry_seconds(failures: int) -> float:
    """How long to wait after so many failed passes in a row; spread, so that not all runs come back at once."""
    longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _explains_itself(error: Exception) -> bool:
    return hasattr(error, "status") and hasattr(error, "reason")

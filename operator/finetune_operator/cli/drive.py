"""Drives a run on this machine: the operator's own passes, one after the other, until there is nothing left to do."""

import asyncio
import signal
import time
from typing import Protocol

from finetune_operator.backends.local import LocalBackend
from finetune_operator.cli.open_run import LOOK_SECONDS, OpenRun
from finetune_operator.cli.words import plan_words
from finetune_operator.reconcile import run_pass
from finetune_operator.status import Phase, Status


class Screen(Protocol):
    """What shows a run to a person."""

    def show(self, status: Status) -> None:
        """How the run stands now."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


async def driven(opened_run: OpenRun, backend: LocalBackend, screen: Screen) -> Status:
    """The status in which the run came to rest: finished, failed or suspended.

    The first Ctrl-C (or SIGTERM) asks the workers to save and stop, the second removes them.
    """
    stops = _Stops()
    knows_plan = opened_run.earlier.plan is not None and opened_run.earlier.plan.final
    while True:
        if stops.count > 1:
            await _remove_workers(opened_run, backend)
        body = opened_run.body(is_suspended=stops.count > 0)
        result = await run_pass(body, backend, opened_run.settings, time.time())
        plan = result.status.plan
        if plan is not None and plan.final and not knows_plan:
            screen.say(plan_words(plan))
            knows_plan = True
        screen.show(result.status)
        is_final = result.status.completion_time is not None and result.next_look_seconds is None
        if is_final or result.status.phase is Phase.SUSPENDED:
            return result.status
        if await stops.came_within(LOOK_SECONDS):
            screen.say(_STOP_WORDS[min(stops.count, 2)])


async def _remove_workers(opened_run: OpenRun, backend: LocalBackend) -> None:
    for attempt in (await backend.observe(opened_run.run)).attempts:
        await backend.stop_attempt(opened_run.run, attempt.number, force=True)


_STOP_WORDS = {
    1: "saving and stopping; press Ctrl-C again to stop without saving",
    2: "stopping without saving",
}


class _Stops:
    """Counts how often the user has asked for a stop."""

    def __init__(self) -> None:
        self.count = 0
        self._came = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        self.count += 1
        self._came.set()

    async def came_within(self, seconds: float) -> bool:
        """Wait so long, or until the user asks once more."""
        try:
            await asyncio.wait_for(self._came.wait(), seconds)
        except TimeoutError:
            return False
        self._came.clear()
        return True

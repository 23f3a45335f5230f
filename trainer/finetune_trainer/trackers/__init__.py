"""The experiment trackers of a run, on rank 0. A tracker that is down, slow or wrong never stops or slows training.

Every tracker is a file with the same two names: `opened`, which gives a Connection, and `RESENDS_STEPS`: whether steps
that an attempt does again after a resume are sent again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from finetune_contract import RunConfig, TrackerReport, TrackerState
from finetune_trainer.trackers import mlflow, swanlab, tensorboard, wandb
from finetune_trainer.trackers.connection import Connection, prepare_accelerate
from finetune_trainer.trackers.thread import THREAD_PREFIX, TrackerThread

log = logging.getLogger("finetune")

FLUSH_SECONDS = 20.0
"""What the end of a run waits for its trackers at most, and never more than a quarter of the time to SIGKILL."""

_FILES = {"swanlab": swanlab, "tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
_SECRETS = ("SWANLAB_API_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN")

Opener = Callable[[int], Connection]
"""Takes the first step that will be sent."""


class Tracking:
    """All trackers of one attempt."""

    def __init__(self, openers: Mapping[str, tuple[Opener, bool]], *, first_step: int, sent_step: int) -> None:
        """`openers` by name, each with its RESENDS_STEPS. `sent_step`: the last one that earlier attempts sent."""
        self._sent_step = sent_step
        self._resends = {name: resends for name, (_, resends) in openers.items()}
        self._threads = {
            name: TrackerThread(name, partial(opener, first_step)) for name, (opener, _) in openers.items()
        }
        self._told: dict[str, TrackerState] = {}

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Queue what is known of a step."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        for name, thread in self._threads.items():
            if self._resends[name] or step > self._sent_step:
                thread.put(step, known)

    def reports(self) -> dict[str, TrackerReport]:
        """How every tracker does; a change is logged once."""
        reports = {name: _without_secrets(thread.report()) for name, thread in self._threads.items()}
        for name, report in reports.items():
            if self._told.get(name, TrackerState.CONNECTING) is not report.state:
                self._told[name] = report.state
                _tell(name, report)
        return reports

    def close(self, seconds: float) -> None:
        """Send what waits, for so many seconds in all; who is not ready by then is left behind."""
        deadline = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.close()
        for name, thread in self._threads.items():
            if not thread.ended(deadline - time.monotonic()):
                log.warning("tracker=%s is left behind: it was not ready within %.0f s", name, seconds)


def openers_of(run: RunConfig) -> dict[str, tuple[Opener, bool]]:
    """What the run was told to use."""
    wanted = {name: getattr(run.tracking, name) for name in _FILES}
    return {
        name: (partial(_opened, name, run, settings), _FILES[name].RESENDS_STEPS)
        for name, settings in wanted.items()
        if settings is not None
    }


def any_left_behind() -> bool:
    """Whether a tracker of this process has not come to an end: then the interpreter must not wait for it either."""
    return any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate())


def _opened(name: str, run: RunConfig, settings: Any, first_step: int) -> Connection:
    prepare_accelerate()
    connection: Connection = _FILES[name].opened(run, settings, first_step)
    return connection


def _tell(name: str, report: TrackerReport) -> None:
    if report.state is TrackerState.LIVE:
        log.info("tracker=%s is live%s", name, f": {report.url}" if report.url else "")
    else:
        log.warning("tracker=%s is %s, training goes on: %s", name, report.state.lower(), report.message)


def _without_secrets(report: TrackerReport) -> TrackerReport:
    """A library's message may quote the key that it was given."""
    message = report.message
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        message = message and message.replace(secret, "***")
    return report.model_copy(update={"message": message})

"""What a person sees while a run goes on: a live bar on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from finetune_operator.status import ConditionType, Phase, ProgressStatus, Status

PLAIN_SECONDS = 5.0
"""How often plain lines tell of steps."""

_MOVING = frozenset({Phase.RUNNING, Phase.EXPORTING})


def figures(progress: ProgressStatus) -> str:
    """`loss 2.1034  1,234 tokens/s  ETA 12m  53.9Gi`, as far as known."""
    parts = [
        f"loss {progress.loss}" if progress.loss else None,
        _validation(progress),
        f"{progress.skipped_steps} skipped" if progress.skipped_steps else None,
        f"{progress.tokens_per_second:,} tokens/s" if progress.tokens_per_second else None,
        f"ETA {progress.eta}" if progress.eta else None,
        progress.peak_memory,
        f"MFU {progress.mfu}" if progress.mfu else None,
        *(f"! {alarm.indicator} {alarm.value}" for alarm in progress.alarms),
    ]
    return "  ".join(part for part in parts if part)


def _validation(progress: ProgressStatus) -> str | None:
    if progress.validation_loss is None:
        return None
    is_best = progress.best_step is None or progress.best_validation_loss == progress.validation_loss
    best = "" if is_best else f" (best {progress.best_validation_loss} at step {progress.best_step})"
    return f"validation {progress.validation_loss}{best}"


class LiveScreen:
    """One bar that moves; what happened scrolls above it."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, status: Status) -> None:
        """The bar stands where the run does."""
        progress = status.progress
        if progress is None:
            self._bar.update(self._task, description=str(status.phase), figures=_waiting(status))
            return
        self._bar.update(
            self._task,
            description=str(status.phase),
            completed=progress.step,
            total=progress.total_steps,
            figures=f"{progress.step}/{progress.total_steps}  {figures(progress)}",
        )

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)


class PlainScreen:
    """A line for every new phase, and one for the steps every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase: Phase | None = None
        self._step: int | None = None
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def show(self, status: Status) -> None:
        """A line, if there is news."""
        if status.phase is not self._phase:
            self._phase = status.phase
            self.say(" ".join(word for word in (f"phase={status.phase}", _waiting(status)) if word))
        progress = status.progress
        is_news = progress is not None and progress.step != self._step and status.phase in _MOVING
        if progress is None or not is_news or time.monotonic() - self._told_at < PLAIN_SECONDS:
            return
        self._step, self._told_at = progress.step, time.monotonic()
        self.say(f"step {progress.step}/{progress.total_steps}  {figures(progress)}")

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def screen_for(console: Console) -> LiveScreen | PlainScreen:
    """The screen that suits where the output goes."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


_WAITING_IN = {
    Phase.PREPARING: ConditionType.PREPARED,
    Phase.QUEUED: ConditionType.RUNNING,
    Phase.RESTARTING: ConditionType.RUNNING,
    Phase.PUSHING: ConditionType.PUSHED,
}
"""The condition that says why a run in this phase is not further."""


def _waiting(status: Status) -> str:
    """Why the run is not further, if anything is worth a word."""
    kind = _WAITING_IN.get(status.phase)
    return next((condition.message for condition in status.conditions if condition.type == kind), "")

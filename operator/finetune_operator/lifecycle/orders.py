"""Our own reasons to end an attempt that would go on: spec.suspend, a deadline, a hang."""

from dataclasses import dataclass

from finetune_operator.failures import Cause
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.stalls import stall_message
from finetune_operator.observation import Attempt
from finetune_operator.status import AttemptStatus, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An attempt is to end."""

    cause: Cause
    message: str

    @property
    def is_final(self) -> bool:
        """Whether the workers have nothing left to save: they are removed, not asked."""
        return self.cause is not Cause.SUSPENDED


def order_to_end(record: AttemptStatus, attempt: Attempt, status: Status, view: View) -> Order | None:
    """Whether the healthy `attempt` is to end, and why; None: it goes on."""
    newest = view.observation.current
    if newest is not None and attempt.number < newest.number:
        return Order(cause=Cause.UNEXPECTED, message=f"attempt {newest.number} was there at the same time")
    if view.run.spec.suspend:
        return Order(cause=Cause.SUSPENDED, message="asked to save and stop (spec.suspend)")
    if (late := deadline_message(status, view)) is not None:
        return Order(cause=Cause.DEADLINE_EXCEEDED, message=late)
    if (hung := stall_message(record, attempt, status, view)) is not None:
        return Order(cause=Cause.HANG, message=hung)
    return None


def has_stepped(record: AttemptStatus) -> bool:
    """Whether a rank of this attempt has done a step of its own."""
    return record.last_step is not None and record.last_step > (record.resumed_from_step or 0)


def deadline_at(status: Status, view: View) -> float | None:
    """When scheduling.preRunningDeadlineSeconds ends the wait for the first step; None: never."""
    seconds = view.run.spec.scheduling.pre_running_deadline_seconds
    has_run = status.checkpoint is not None or any(has_stepped(record) for record in status.attempts)
    created = view.run.metadata.creation_timestamp or status.start_time
    if seconds is None or has_run or created is None or view.run.spec.suspend:
        return None
    return text.seconds_of(created) + status.suspended_seconds + seconds


def deadline_message(status: Status, view: View) -> str | None:
    """Why the run is given up for waiting too long; None: it is not."""
    at = deadline_at(status, view)
    if at is None or view.now < at:
        return None
    seconds = view.run.spec.scheduling.pre_running_deadline_seconds
    return f"no step was done within scheduling.preRunningDeadlineSeconds: {seconds}"

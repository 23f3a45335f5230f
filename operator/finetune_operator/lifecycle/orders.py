"""Our own reasons to end an attempt that would go on: spec.suspend, its queue, a deadline, a hang."""

from dataclasses import dataclass

from finetune_operator.failures import Cause, classify
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.stalls import stall_message
from finetune_operator.observation import Attempt, WorkerState
from finetune_operator.status import AttemptStatus, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An attempt is to end."""

    cause: Cause
    message: str


def order_to_end(record: AttemptStatus, attempt: Attempt, status: Status, view: View) -> Order | None:
    """Whether the healthy `attempt` is to end, and why; None: it goes on."""
    newest = view.observation.current
    if newest is not None and attempt.number < newest.number:
        return Order(cause=Cause.UNEXPECTED, message=f"attempt {newest.number} was there at the same time")
    if view.run.spec.suspend:
        return Order(cause=Cause.SUSPENDED, message="asked to save and stop (spec.suspend)")
    late = deadline_message(status, view) or active_deadline_message(record, status, view)
    if late is not None:
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


def loss_of_place(record: AttemptStatus, attempt: Attempt) -> Order | None:
    """Told to an attempt whose queue has taken it back after it was let go, unless it has failed by itself.

    Its Job goes at once. Were it left, the queue could let it go again while workers of before are still saving, and
    old and new ones would meet; and Kubernetes counts pods that a suspension ends against the Job's backoff limit. One
    that has only waited, or of whose pods none had a node, is left in the queue: nothing of it can meet anything.
    """
    was_let_go = record.running_since is not None or any(
        worker.is_terminating or worker.state is WorkerState.FAILED for worker in attempt.workers
    )
    if not attempt.is_suspended_by_queue or not was_let_go:
        return None
    ending = classify(attempt)
    return Order(cause=ending.cause, message=ending.message) if ending.cause is Cause.DISRUPTION else None


def active_deadline_at(record: AttemptStatus, status: Status, view: View) -> float | None:
    """When scheduling.activeDeadlineSeconds ends an attempt whose workers run; None: never."""
    seconds = view.run.spec.scheduling.active_deadline_seconds
    if seconds is None or record.running_since is None:
        return None
    return text.seconds_of(record.running_since) + seconds - status.active_seconds


def active_deadline_message(record: AttemptStatus | None, status: Status, view: View) -> str | None:
    """Why a run that has used up its time is given up, with or without an attempt; None: it has time left."""
    seconds = view.run.spec.scheduling.active_deadline_seconds
    at = None if record is None else active_deadline_at(record, status, view)
    is_used_up = view.now >= at if at is not None else seconds is not None and status.active_seconds >= seconds
    if not is_used_up:
        return None
    return f"its workers have run for scheduling.activeDeadlineSeconds: {seconds}, all attempts together"

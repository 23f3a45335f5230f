"""Conditions and the one-word phase: derived on every pass from the records and from what is seen, never read back.

Only `last_transition_time` outlives a pass, as Kubernetes' conventions want it.
"""

from typing import NamedTuple

from finetune_contract import Stage
from finetune_operator.failures import Cause, Verdict, done_outcome
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.attempts import has_live_worker, is_over, is_stopping
from finetune_operator.lifecycle.decision import Action, StartAttempt, View
from finetune_operator.lifecycle.finals import is_pushed
from finetune_operator.lifecycle.orders import has_stepped
from finetune_operator.lifecycle.preparation import is_alive
from finetune_operator.lifecycle.waiting import QUEUE_REASONS, attempt_waits_for, preparation_waits_for, push_waits_for
from finetune_operator.planning import PlanError
from finetune_operator.resource import Mode
from finetune_operator.status import (
    AttemptStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    Phase,
    Status,
)

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

RESTARTING = "Restarting"
STARTING = "Starting"
PUSHING = "Pushing"
ENDED = "Ended"
NAME_TAKEN = "NameTaken"


class Truth(NamedTuple):
    """What is true of one condition, and why."""

    status: ConditionStatus
    reason: str
    message: str


def with_conditions(status: Status, actions: tuple[Action, ...], view: View) -> Status:
    """`status` with its conditions and its phase."""
    truths = {
        ConditionType.PLANNED: _planned(status, view),
        ConditionType.PREPARED: _prepared(status, view),
        ConditionType.RUNNING: _running(status, actions, view),
        ConditionType.SUSPENDED: _suspended(status, view),
        ConditionType.HEALTHY: _healthy(status),
        **_pushed(status, view),
        ConditionType.SUCCEEDED: _succeeded(status, view),
    }
    conditions = written(status.conditions, truths, view.run.metadata.generation, view.now)
    phase = phase_of(truths, has_begun=status.start_time is not None)
    return status.model_copy(update={"conditions": conditions, "phase": phase})


def written(
    previous: tuple[Condition, ...], truths: dict[ConditionType, Truth], generation: int, now: float
) -> tuple[Condition, ...]:
    """`truths` as conditions; one whose status is as before keeps its transition time."""
    before = {condition.type: condition for condition in previous}

    def condition(type_: ConditionType, truth: Truth) -> Condition:
        old = before.get(type_)
        is_same = old is not None and old.status == truth.status
        return Condition(
            type=type_,
            status=truth.status,
            reason=truth.reason,
            message=text.shortened(truth.message, 4096),
            observed_generation=generation,
            last_transition_time=old.last_transition_time if old and is_same else text.timestamp(now),
        )

    return tuple(condition(type_, truth) for type_, truth in truths.items())


def phase_of(truths: dict[ConditionType, Truth], *, has_begun: bool) -> Phase:
    """The one word for these conditions."""
    succeeded, running = truths[ConditionType.SUCCEEDED], truths[ConditionType.RUNNING]
    if succeeded.status is not UNKNOWN:
        return Phase.SUCCEEDED if succeeded.status is TRUE else Phase.FAILED
    if truths[ConditionType.SUSPENDED].status is TRUE:
        return Phase.SUSPENDED
    if truths[ConditionType.PREPARED].status is not TRUE:
        return Phase.PREPARING if has_begun else Phase.PENDING
    if running.reason == PUSHING:
        return Phase.PUSHING
    if running.reason == Stage.EXPORTING:
        return Phase.EXPORTING
    if running.status is TRUE:
        return Phase.RUNNING
    if running.reason == RESTARTING:
        return Phase.RESTARTING
    return Phase.QUEUED if running.reason in QUEUE_REASONS else Phase.STARTING


def _planned(status: Status, view: View) -> Truth:
    if status.plan is not None:
        reason = "PlanReady" if status.plan.final else "Planned"
        return Truth(TRUE, reason, status.plan.batch)
    plan = view.plan()
    if isinstance(plan, PlanError):
        return Truth(FALSE, plan.reason, str(plan))
    return Truth(UNKNOWN, "NotPlanned", "the run ended before it was planned")


def _prepared(status: Status, view: View) -> Truth:
    dataset, preparation = status.dataset, view.observation.preparation
    if status.preparation is not None and dataset is not None:
        message = (
            f"{dataset.rows:,} rows in {dataset.sequences:,} sequences, {dataset.tokens:,} tokens of which "
            f"{dataset.supervised_tokens:,} are trained on"
        )
        return Truth(TRUE, "Prepared", message)
    if status.failure is not None:
        return Truth(FALSE, status.failure.reason, status.failure.message)
    if preparation is not None and (waiting := preparation_waits_for(preparation, view)) is not None:
        return Truth(UNKNOWN, waiting.reason, waiting.message)
    if status.preparation_failures and not is_alive(preparation):
        last = status.preparation_failures[-1]
        return Truth(UNKNOWN, "PreparationRetried", f"{last.cause}: {last.message}")
    if status.start_time is None:
        return Truth(UNKNOWN, "NotStarted", "the preparation has not been started")
    if preparation is None and view.observation.taken_name is not None:
        return Truth(UNKNOWN, NAME_TAKEN, view.observation.taken_name)
    return Truth(UNKNOWN, "Preparing", "model and data are being fetched and checked")


def _running(status: Status, actions: tuple[Action, ...], view: View) -> Truth:
    if status.completion_time is not None:
        return Truth(FALSE, ENDED, "the run has ended")
    if status.artifacts:
        return Truth(FALSE, PUSHING, "the training is complete, and its results are pushed")
    starting = next((action.number for action in actions if isinstance(action, StartAttempt)), None)
    if starting is not None and view.observation.taken_name is not None:
        return Truth(FALSE, NAME_TAKEN, f"attempt {starting} cannot be started: {view.observation.taken_name}")
    record = status.attempts[-1] if status.attempts else None
    if record is None or (record.decision is not None and record.decision == Verdict.SUSPEND):
        if starting is None:
            return Truth(FALSE, "NotStarted", "no attempt is under way")
        return Truth(FALSE, STARTING, f"attempt {starting} is being started")
    if record.decision is not None:
        return Truth(FALSE, RESTARTING, f"attempt {record.number} has ended: {record.cause}: {record.message}")
    return _attempt_running(record, status, view)


def _attempt_running(record: AttemptStatus, status: Status, view: View) -> Truth:
    """Of the attempt that is under way."""
    attempt = view.observation.current
    assert attempt is not None, "an attempt of which nothing is left is decided"
    assert attempt.number == record.number
    number, stage = record.number, _stage(record, status)
    if done_outcome(attempt) is not None or stage == Stage.EXPORTING:
        message = f"attempt {number} has trained and writes its results"
        return Truth(TRUE if has_stepped(record) else FALSE, Stage.EXPORTING, message)
    if record.ended_at is not None and not is_stopping(record):
        return Truth(FALSE, RESTARTING, f"attempt {number} is ending; its workers are heard out")
    if has_stepped(record):
        message = "saves and stops" if is_stopping(record) else "is training"
        return Truth(TRUE, "Stopping" if is_stopping(record) else str(stage), f"attempt {number} {message}")
    if (waiting := attempt_waits_for(attempt, view)) is not None:
        return Truth(FALSE, waiting.reason, waiting.message)
    message = "loads model and data" if record.running_since else "waits for its workers to start"
    return Truth(FALSE, STARTING, f"attempt {number} {message}")


def _stage(record: AttemptStatus, status: Status) -> str:
    progress = status.progress
    return progress.stage if progress is not None and progress.attempt == record.number else Stage.LOADING


def _healthy(status: Status) -> Truth:
    """Of the figures that are shown; alarms go with the attempt that raised them."""
    progress = status.progress
    running = {record.number for record in status.attempts if record.ended_at is None}
    if progress is None or progress.attempt not in running:
        return Truth(UNKNOWN, "NotRunning", "nothing trains at present")
    standing = [alarm for alarm in progress.alarms if alarm.standing]
    if not standing:
        return Truth(TRUE, "NoAlarm", "no indicator has been beyond its limit for five minutes")
    words = "; ".join(f"{each.indicator} is {each.value} (limit {each.threshold}): {each.remedy}" for each in standing)
    return Truth(FALSE, standing[0].indicator, words)


def _pushed(status: Status, view: View) -> dict[ConditionType, Truth]:
    """Absent where no push is asked for."""
    return {} if view.run.spec.output.push is None else {ConditionType.PUSHED: _push_truth(status, view)}


def _push_truth(status: Status, view: View) -> Truth:
    record, push = status.push, view.observation.push
    if is_pushed(status, view.run):
        assert record is not None
        return Truth(TRUE, "Pushed", record.message or record.target)
    if status.failure is not None:
        return Truth(FALSE, status.failure.reason, status.failure.message)
    if not status.artifacts:
        return Truth(UNKNOWN, "NotTrained", "it follows when the training is over and its results are checked")
    if view.run.spec.suspend:
        return Truth(UNKNOWN, Cause.SUSPENDED, "it goes on when spec.suspend is false again")
    if push is not None and push.is_alive:
        if (waiting := push_waits_for(push, view)) is not None:
            return Truth(UNKNOWN, waiting.reason, waiting.message)
        return Truth(UNKNOWN, PUSHING, f"push {push.number} is under way: {push.target}")
    if record is not None and record.decision == Verdict.RETRY:
        return Truth(UNKNOWN, "PushRetried", f"it is tried again after {record.cause}: {record.message}")
    return Truth(UNKNOWN, PUSHING, "it is about to start")


def _suspended(status: Status, view: View) -> Truth:
    if status.completion_time is not None:
        return Truth(FALSE, ENDED, "the run has ended")
    if not view.run.spec.suspend:
        return Truth(FALSE, "NotSuspended", "spec.suspend is false")
    if not is_at_rest(view):
        return Truth(FALSE, "Stopping", "what runs is told to save and stop")
    if status.artifacts:
        return Truth(TRUE, Cause.SUSPENDED, "the training is complete; only its push is left")
    saved = status.checkpoint
    kept = f"the checkpoint of step {saved.step} is kept" if saved is not None else "there is no checkpoint yet"
    return Truth(TRUE, Cause.SUSPENDED, f"no worker is left; {kept}")


def is_at_rest(view: View) -> bool:
    """Whether no process of the run is left."""
    observation = view.observation
    lives = any(has_live_worker(attempt) or not is_over(attempt) for attempt in observation.attempts)
    return not lives and not is_alive(observation.preparation) and not (observation.push and observation.push.is_alive)


def _succeeded(status: Status, view: View) -> Truth:
    if status.failure is not None:
        return Truth(FALSE, status.failure.reason, status.failure.message)
    if status.completion_time is None:
        return Truth(UNKNOWN, "InProgress", "the run has not ended")
    if view.run.spec.mode is Mode.PLAN:
        return Truth(TRUE, "PlanReady", "data and plan are ready; mode Plan takes no GPU")
    early = "; ended early, since the validation loss no longer fell" if status.stopped_early else ""
    return Truth(TRUE, "Completed", f"final loss {status.final_loss}{early}")

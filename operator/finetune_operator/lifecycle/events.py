"""What to tell people: the difference between two statuses, so that a fact is told once."""

from collections.abc import Iterator

from finetune_operator.failures import Verdict
from finetune_operator.lifecycle.decision import Event
from finetune_operator.lifecycle.recovery import HOST_MEMORY, change_words, remedy_after
from finetune_operator.status import (
    AlarmStatus,
    AttemptStatus,
    ConditionStatus,
    ConditionType,
    PushStatus,
    RemedyStatus,
    Status,
)


def events_between(old: Status, new: Status) -> tuple[Event, ...]:
    """What has happened from `old` to `new`, in the order in which things happen."""
    tellers = (_plan, _preparation, _interventions, _attempts, _alarms, _push, _suspension, _end)
    return tuple(event for teller in tellers for event in teller(old, new))


def _plan(old: Status, new: Status) -> Iterator[Event]:
    if new.plan is not None and old.plan is None:
        yield Event(reason="Planned", message=f"{new.plan.strategy} on {new.plan.gpus} GPUs: {new.plan.batch}")
    refused = _became(old, new, ConditionType.PLANNED, ConditionStatus.FALSE)
    if refused is not None:
        yield Event(reason="PlanRefused", message=refused, is_warning=True)


def _preparation(old: Status, new: Status) -> Iterator[Event]:
    prepared = _became(old, new, ConditionType.PREPARED, ConditionStatus.TRUE)
    if prepared is not None:
        yield Event(reason="Prepared", message=prepared)
    known = {failure.started_at for failure in old.preparation_failures}
    for failure in new.preparation_failures:
        if failure.started_at not in known and failure.decision != Verdict.GIVE_UP:
            message = f"it is tried again after {failure.cause}: {failure.message}"
            yield Event(reason="PreparationFailed", message=message, is_warning=True)


def _interventions(old: Status, new: Status) -> Iterator[Event]:
    """What the trainer did about steps that were no numbers and about a diverging loss, once each."""
    known = () if old.progress is None else old.progress.interventions
    for note in () if new.progress is None else new.progress.interventions:
        if note not in known:
            yield Event(reason="Intervened", message=note, is_warning=True)


def _attempts(old: Status, new: Status) -> Iterator[Event]:
    before = {record.number: record for record in old.attempts}
    for record in new.attempts:
        was = before.get(record.number)
        if was is None:
            yield Event(reason="AttemptStarted", message=f"attempt {record.number} has been started")
        # of an attempt that has reached the end of the training, `Succeeded` or the push tells
        if record.decision not in (None, Verdict.FINISH) and (was is None or was.decision is None):
            yield from _attempt_ended(record, new)


def _attempt_ended(record: AttemptStatus, status: Status) -> Iterator[Event]:
    message = f"attempt {record.number} ended: {record.cause}: {record.message}"
    yield Event(reason="AttemptEnded", message=message, is_warning=record.decision != Verdict.SUSPEND)
    if record.decision in (Verdict.RETRY, Verdict.RETRY_UNCOUNTED):
        counted = "counts against" if record.decision == Verdict.RETRY else "does not count against"
        node = record.suspect_node
        away = f" and keeps away from node {node}, if there is room elsewhere" if node is not None else ""
        message = f"attempt {record.number + 1} follows{away}; this {counted} recovery.maxRestarts"
        yield Event(reason="Restarting", message=message)
    remedy = remedy_after(record.number, status) if record.decision == Verdict.REMEDY else None
    if remedy is not None:
        yield Event(reason="Remedied", message=f"{_memory_words(record, remedy)}; {change_words(remedy, status)}")


def _memory_words(record: AttemptStatus, remedy: RemedyStatus) -> str:
    """`attempt 1 ran out of memory after step 2 with micro-batch 8 and 2 accumulation steps`."""
    whose = "the host's memory" if remedy.remedy == HOST_MEMORY else "memory"
    at = f" after step {record.last_step}" if record.last_step else ""
    return f"attempt {record.number} ran out of {whose}{at} with {remedy.before}"


def _alarms(old: Status, new: Status) -> Iterator[Event]:
    """Once for an alarm that has come to stand, however often its figure changes meanwhile."""
    known = {(alarm.indicator, alarm.since) for alarm in _standing(old)}
    for alarm in _standing(new):
        if (alarm.indicator, alarm.since) not in known:
            message = f"{alarm.indicator} is {alarm.value} (limit {alarm.threshold}): {alarm.remedy}"
            yield Event(reason=f"{alarm.indicator}Alarm", message=message, is_warning=True)


def _standing(status: Status) -> tuple[AlarmStatus, ...]:
    return () if status.progress is None else tuple(alarm for alarm in status.progress.alarms if alarm.standing)


def _push(old: Status, new: Status) -> Iterator[Event]:
    record, before = new.push, old.push
    if record is None:
        return
    is_new = before is None or before.number != record.number
    if is_new:
        yield Event(reason="PushStarted", message=f"push {record.number} has been started: {record.target}")
    if record.ended_at is not None and (is_new or (before is not None and before.ended_at is None)):
        yield from _push_ended(record)


def _push_ended(record: PushStatus) -> Iterator[Event]:
    if record.decision == Verdict.FINISH:
        yield Event(reason="Pushed", message=record.message or record.target)
    elif record.decision in (Verdict.RETRY, Verdict.RETRY_UNCOUNTED):
        message = f"push {record.number} is tried again after {record.cause}: {record.message}"
        yield Event(reason="PushFailed", message=message, is_warning=True)


def _suspension(old: Status, new: Status) -> Iterator[Event]:
    suspended = _became(old, new, ConditionType.SUSPENDED, ConditionStatus.TRUE)
    if suspended is not None:
        yield Event(reason="Suspended", message=suspended)
    if old.suspended_since is not None and new.suspended_since is None and new.completion_time is None:
        yield Event(reason="Resumed", message="the run goes on")


def _end(old: Status, new: Status) -> Iterator[Event]:
    succeeded = _became(old, new, ConditionType.SUCCEEDED, ConditionStatus.TRUE)
    if succeeded is not None:
        yield Event(reason="Succeeded", message=succeeded)
    failed = _became(old, new, ConditionType.SUCCEEDED, ConditionStatus.FALSE)
    if failed is not None:
        yield Event(reason="Failed", message=failed, is_warning=True)


def _became(old: Status, new: Status, type_: ConditionType, status: ConditionStatus) -> str | None:
    """The message of a condition that has just taken on `status`; None: it had it, or has it not."""
    was = next((condition.status for condition in old.conditions if condition.type is type_), None)
    now = next((condition for condition in new.conditions if condition.type is type_), None)
    return now.message if now is not None and now.status is status and was is not status else None

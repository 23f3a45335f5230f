"""What a pass adds to the durable records: who was seen, what ended, what was decided."""

from finetune_operator.failures import Verdict, done_outcome
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.attempts import advanced, new_record
from finetune_operator.lifecycle.conditions import is_at_rest
from finetune_operator.lifecycle.cost import with_released_gpus, with_times
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.finals import finished, given_up, planned_only, reopened
from finetune_operator.lifecycle.mending import mended, with_result_forgotten
from finetune_operator.lifecycle.orders import active_deadline_message, deadline_message
from finetune_operator.lifecycle.preparation import with_preparation
from finetune_operator.lifecycle.progress import at_rest, with_last_words, with_progress
from finetune_operator.lifecycle.push import with_push
from finetune_operator.observation import Attempt
from finetune_operator.planning import PlanError, plan_status
from finetune_operator.resource import Mode
from finetune_operator.status import MAX_ATTEMPTS, AttemptStatus, Status


def remembered(previous: Status, view: View) -> Status:
    """The records of a run that is not final, after what `view` shows."""
    # what is not final may carry the refusal of an earlier generation
    status = reopened(previous) if previous.artifacts else previous
    status = mended(status).model_copy(update={"failure": None, "completion_time": None})
    for remember in _IN_ORDER:
        status = remember(status, view)
        if status.completion_time is not None:
            return status
        if status.artifacts:
            break
    if not status.artifacts:
        return _with_suspension(_with_progress_at_rest(status), view)
    status = with_push(status, view)  # the training is over: nothing is planned any more
    return status if status.completion_time is not None else _with_suspension(status, view)


def has_undecided_attempt(status: Status) -> bool:
    """Whether an attempt is under way."""
    return any(record.decision is None for record in status.attempts)


def _with_attempts(status: Status, view: View) -> Status:
    observed = {attempt.number: attempt for attempt in view.observation.attempts}
    known = {record.number: record for record in status.attempts}
    for number in sorted(observed.keys() | known.keys()):
        attempt = observed.get(number)
        record = known.get(number)
        if record is None:
            assert attempt is not None
            gpus = None if status.plan is None else status.plan.gpus
            record = new_record(attempt).model_copy(update={"gpus": gpus})
        if record.decision is None:
            status = _with_attempt(status, record, attempt, view)
    return status


def _with_attempt(status: Status, record: AttemptStatus, attempt: Attempt | None, view: View) -> Status:
    """`status` after one more look at an attempt that is not decided yet."""
    before = status
    if attempt is not None:
        status = with_last_words(with_progress(status, attempt, view), attempt)
    decided, recovery = advanced(record, attempt, status, view)
    new = with_times(decided, before, status, view.now)
    others = tuple(other for other in status.attempts if other.number != new.number)
    records = tuple(sorted((*others, new), key=lambda each: each.number))[-MAX_ATTEMPTS:]
    return status.model_copy(
        update={
            "attempts": records,
            "recovery": recovery,
            "restarts": max(status.restarts, new.number - 1),
            "failures": status.failures + (new.decision == Verdict.RETRY),
            "active_seconds": status.active_seconds + _active_seconds(new, view.now),
        }
    )


def _active_seconds(record: AttemptStatus, now: float) -> int:
    """For how long the workers of an attempt that has just been decided have run together."""
    if record.decision is None or record.running_since is None:
        return 0
    return max(0, round(now - text.seconds_of(record.running_since)))


def _with_end(status: Status, view: View) -> Status:
    """The run is final when its newest attempt has been decided that way."""
    if not status.attempts:
        return status
    last = status.attempts[-1]
    if last.decision == Verdict.GIVE_UP:
        return given_up(status, last.reason or str(last.cause), f"attempt {last.number}: {last.message}", view)
    if last.decision == Verdict.FINISH and not status.artifacts:
        outcome = next((done_outcome(each) for each in view.observation.attempts if each.number == last.number), None)
        return with_result_forgotten(status) if outcome is None else finished(status, outcome, view)
    return status


def _with_plan(status: Status, view: View) -> Status:
    """The plan moves until an attempt runs by it, and again before the next one starts."""
    is_running = has_undecided_attempt(status)
    if is_running and status.plan is not None:
        return status
    plan = view.plan(status.recovery)
    if isinstance(plan, PlanError) and is_running:
        return status
    if isinstance(plan, PlanError):
        return given_up(status.model_copy(update={"plan": None}), plan.reason, str(plan), view)
    return status.model_copy(update={"plan": plan_status(plan, view.run.spec.model)})


def _with_deadline(status: Status, view: View) -> Status:
    """The deadlines while there is no attempt; of an attempt's own deadline see `orders`."""
    late = deadline_message(status, view) or active_deadline_message(None, status, view)
    if has_undecided_attempt(status) or late is None:
        return status
    return given_up(status, "DeadlineExceeded", late, view)


def _with_plan_mode(status: Status, view: View) -> Status:
    is_ready = view.run.spec.mode is Mode.PLAN and status.preparation is not None
    return planned_only(status, view) if is_ready and not status.attempts else status


def _with_resumption(status: Status, view: View) -> Status:
    since = status.suspended_since
    if view.run.spec.suspend or since is None:
        return status
    seconds = status.suspended_seconds + max(0, round(view.now - text.seconds_of(since)))
    return status.model_copy(update={"suspended_since": None, "suspended_seconds": seconds})


def _with_suspension(status: Status, view: View) -> Status:
    if not view.run.spec.suspend or status.suspended_since is not None or not is_at_rest(view):
        return status
    return status.model_copy(update={"suspended_since": text.timestamp(view.now)})


def _with_progress_at_rest(status: Status) -> Status:
    running = {record.number for record in status.attempts if record.decision is None}
    is_current = status.progress is not None and status.progress.attempt in running
    return status if is_current else at_rest(status)


_IN_ORDER = (
    _with_resumption,
    with_preparation,
    _with_attempts,
    with_released_gpus,
    _with_end,
    _with_plan,
    _with_deadline,
    _with_plan_mode,
)

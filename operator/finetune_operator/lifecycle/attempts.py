"""The records of attempts: how one goes from started over ending to decided, whatever becomes of its workers.

An attempt ends in two steps. `ended_at` is written when it is first seen to end, or is told to: its workers are then
heard out, since the first to die is seldom the one at fault. `cause` and `decision` are written when all have spoken or
the time for it is over. Only then, with the record safe in status, is what is left of it removed: removing a Job
removes its pods' last words.
"""

from finetune_contract import ExitCode
from finetune_operator.failures import Budget, Cause, Ending, Verdict, classify, decide, done_outcome
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.orders import order_to_end
from finetune_operator.lifecycle.stalls import silent_since
from finetune_operator.observation import Attempt, Worker, WorkerState
from finetune_operator.status import AttemptStatus, Status

SETTLE_SECONDS = 15
"""How long the other workers of a broken gang are heard out; a Job controller ends them within seconds."""

_ALIVE = frozenset({WorkerState.WAITING, WorkerState.RUNNING})
_MESSAGE_LIMIT = 1024


def has_live_worker(attempt: Attempt) -> bool:
    """Whether a process of `attempt` runs, or may still start."""
    return any(worker.state in _ALIVE for worker in attempt.workers)


def is_over(attempt: Attempt) -> bool:
    """Whether nothing of `attempt` runs and nothing will: the next one may start."""
    if has_live_worker(attempt):
        return False
    succeeded = sum(worker.state is WorkerState.SUCCEEDED for worker in attempt.workers)
    return attempt.is_failed or attempt.is_being_deleted or succeeded == attempt.num_nodes


def _is_ending(record: AttemptStatus, attempt: Attempt) -> bool:
    """Whether a worker has ended or is about to, or its queue has taken it back: the gang will not go on."""
    return (
        is_over(attempt)
        or attempt.is_failed
        or attempt.is_being_deleted
        or (attempt.is_suspended_by_queue and record.running_since is not None)
        or done_outcome(attempt) is not None
        or any(worker.state is WorkerState.FAILED or worker.is_terminating for worker in attempt.workers)
    )


def is_stopping(record: AttemptStatus) -> bool:
    """Whether the attempt was told to save and stop, and is given the time for it."""
    return record.decision is None and record.cause == Cause.SUSPENDED


def new_record(attempt: Attempt) -> AttemptStatus:
    """The record of an attempt that is seen for the first time."""
    return AttemptStatus(number=attempt.number, started_at=text.timestamp(attempt.created_at))


def advanced(record: AttemptStatus, attempt: Attempt | None, status: Status, view: View) -> AttemptStatus:
    """`record` after this pass. `attempt` is what is left of it, None when nothing is."""
    if record.decision is not None:
        return record
    if attempt is not None:
        record = _with_news(record, attempt, view)
    if record.ended_at is None:
        record = _ended(record, attempt, status, view)
    if record.ended_at is not None and _is_settled(record, attempt, view):
        return _decided(record, attempt, status, view)
    return record


def _with_news(record: AttemptStatus, attempt: Attempt, view: View) -> AttemptStatus:
    news: dict[str, object] = {}
    running = sum(worker.state is WorkerState.RUNNING for worker in attempt.workers)
    if record.running_since is None and running >= attempt.num_nodes:
        news["running_since"] = text.timestamp(view.now)
    steps = [worker.outcome.step for worker in attempt.workers if worker.outcome is not None]
    progress = attempt.progress
    if progress is not None and progress.attempt == attempt.number:
        news["resumed_from_step"] = progress.resumed_from_step
        steps.append(progress.step)
    news["last_step"] = max((step for step in (*steps, record.last_step) if step is not None), default=None)
    record = record.model_copy(update=news)
    return record.model_copy(update={"silent_since": silent_since(record, attempt, view)})


def _ended(record: AttemptStatus, attempt: Attempt | None, status: Status, view: View) -> AttemptStatus:
    """`record`, marked as ended if its attempt is ending or has to."""
    ended = record.model_copy(update={"ended_at": text.timestamp(view.now)})
    if attempt is None or _is_ending(record, attempt):
        return ended
    order = order_to_end(record, attempt, status, view)
    if order is None:
        return record
    return ended.model_copy(update={"cause": str(order.cause), "message": order.message})


def _is_settled(record: AttemptStatus, attempt: Attempt | None, view: View) -> bool:
    """Whether the workers have said what they have to say, or had the time for it."""
    if attempt is None or is_over(attempt) or (record.cause is not None and not is_stopping(record)):
        return True
    if attempt.is_suspended_by_queue and not has_live_worker(attempt):
        return True
    assert record.ended_at is not None
    is_broken = any(worker.state is WorkerState.FAILED and not _has_saved(worker) for worker in attempt.workers)
    patience = SETTLE_SECONDS if is_broken else view.stop_seconds
    return view.now - text.seconds_of(record.ended_at) >= patience


def _has_saved(worker: Worker) -> bool:
    """Whether this end was agreed by all ranks, so that the others are about to follow."""
    return worker.exit_code == ExitCode.PREEMPTED


def _decided(record: AttemptStatus, attempt: Attempt | None, status: Status, view: View) -> AttemptStatus:
    ending = _ending(record, attempt)
    budget = Budget(failures=status.failures, max_restarts=view.run.spec.recovery.max_restarts)
    verdict = decide(ending, budget)
    message = ending.message
    if verdict is Verdict.GIVE_UP and decide(ending, Budget(failures=0, max_restarts=1)) is Verdict.RETRY:
        message = f"failed {budget.failures + 1} times with recovery.maxRestarts {budget.max_restarts}; last: {message}"
    return record.model_copy(
        update={
            "cause": str(ending.cause),
            "reason": ending.reason,
            "message": text.shortened(message, _MESSAGE_LIMIT),
            "decision": str(verdict),
            "exit_code": ending.exit_code,
            "rank": ending.rank,
            "node": ending.node,
            "stacks": _stacks(ending, view),
            "steps_lost": None if verdict is Verdict.FINISH else _steps_lost(record, status),
        }
    )


def _stacks(ending: Ending, view: View) -> str | None:
    """Where a person finds the stacks of an attempt that hung."""
    if ending.stacks_dir is None:
        return None
    claim = view.observation.output_claim
    return ending.stacks_dir if claim is None else f"claim {claim}: {ending.stacks_dir}"


def _ending(record: AttemptStatus, attempt: Attempt | None) -> Ending:
    """How the attempt ended; what we ended ourselves, we ended for our own reason, unless it was done by then."""
    if record.cause is not None and (attempt is None or done_outcome(attempt) is None):
        return Ending(cause=Cause(record.cause), reason=record.cause, message=record.message or "")
    if attempt is not None:
        return classify(attempt)
    gone = "its workers are gone without a trace; they may have been deleted by hand"
    return Ending(cause=Cause.INFRASTRUCTURE, reason="WorkersGone", message=gone)


def _steps_lost(record: AttemptStatus, status: Status) -> int | None:
    """Steps that the next attempt has to do again; None: not known."""
    if record.last_step is None:
        return None
    saved = status.checkpoint.step if status.checkpoint is not None else 0
    return max(0, record.last_step - saved)

"""The records of attempts: how one goes from started over ending to decided, whatever becomes of its workers.

An attempt ends in two steps. `ended_at` is written when it is first seen to end, or is told to: its workers are then
heard out, since the first to die is seldom the one at fault. `cause` and `decision` are written when all have spoken or
the time for it is over. Only then, with the record safe in status, is what is left of it removed: removing a Job
removes its pods' last words.
"""

from finetune_contract import ExitCode
from finetune_operator.failures import Budget, Cause, Ending, Verdict, classify, decide, done_outcome, suspect_node
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.orders import has_stepped, loss_of_place, order_to_end
from finetune_operator.lifecycle.recovery import advice, recovered
from finetune_operator.lifecycle.stalls import silent_since
from finetune_operator.observation import Attempt, Worker, WorkerState
from finetune_operator.status import AttemptStatus, RecoveryStatus, Status

SETTLE_SECONDS = 15
"""How long the other workers of a broken gang are heard out; a Job controller ends them within seconds."""

_ALIVE = frozenset({WorkerState.WAITING, WorkerState.RUNNING})
_MESSAGE_LIMIT = 1024
_MAX_SUSPECTS = 3
"""Nodes that an attempt keeps away from: more would say more about the run than about the nodes."""


def has_live_worker(attempt: Attempt) -> bool:
    """Whether a process of `attempt` runs, or may still start."""
    return any(worker.state in _ALIVE for worker in attempt.workers)


def is_over(attempt: Attempt) -> bool:
    """Whether nothing of `attempt` runs and nothing will: the next one may start."""
    if has_live_worker(attempt):
        return False
    succeeded = sum(worker.state is WorkerState.SUCCEEDED for worker in attempt.workers)
    return attempt.is_failed or attempt.is_being_deleted or succeeded == attempt.num_nodes


def _is_ending(attempt: Attempt) -> bool:
    """Whether a worker has ended or is about to: the gang will not go on."""
    return (
        is_over(attempt)
        or attempt.is_failed
        or attempt.is_being_deleted
        or done_outcome(attempt) is not None
        or any(worker.state is WorkerState.FAILED or worker.is_terminating for worker in attempt.workers)
    )


def is_stopping(record: AttemptStatus) -> bool:
    """Whether the attempt was told to save and stop, and is given the time for it."""
    has_something_to_save = record.cause == Cause.DEADLINE_EXCEEDED and has_stepped(record)
    return record.decision is None and (record.cause in (Cause.SUSPENDED, Cause.DISRUPTION) or has_something_to_save)


def new_record(attempt: Attempt) -> AttemptStatus:
    """The record of an attempt that is seen for the first time."""
    return AttemptStatus(number=attempt.number, started_at=text.timestamp(attempt.created_at))


def suspect_nodes(status: Status) -> tuple[str, ...]:
    """The nodes that the next attempt keeps away from, the newest suspect first."""
    found = [record.suspect_node for record in reversed(status.attempts) if record.suspect_node is not None]
    return tuple(dict.fromkeys(found))[:_MAX_SUSPECTS]


def advanced(
    record: AttemptStatus, attempt: Attempt | None, status: Status, view: View
) -> tuple[AttemptStatus, RecoveryStatus | None]:
    """The undecided `record` after this pass, and `status.recovery` with what it may have changed.

    `attempt` is what is left of it, None when nothing is.
    """
    if attempt is not None:
        record = _with_news(record, attempt, view)
    if record.cause is None:
        record = _told_to_end(record, attempt, status, view)
    if record.ended_at is not None and _is_settled(record, attempt, view):
        return _decided(record, attempt, status, view)
    return record, status.recovery


def _with_news(record: AttemptStatus, attempt: Attempt, view: View) -> AttemptStatus:
    news: dict[str, object] = {}
    running = sum(worker.state is WorkerState.RUNNING for worker in attempt.workers)
    # a Job that is seen as suspended beside pods that run may be old news: the two come by different watches
    if record.running_since is None and running >= attempt.num_nodes and not attempt.is_suspended_by_queue:
        news["running_since"] = text.timestamp(view.now)
    steps = [worker.outcome.step for worker in attempt.workers if worker.outcome is not None]
    progress = attempt.progress
    if progress is not None and progress.attempt == attempt.number:
        news["resumed_from_step"] = progress.resumed_from_step
        steps.append(progress.step)
    news["last_step"] = max((step for step in (*steps, record.last_step) if step is not None), default=None)
    record = record.model_copy(update=news)
    return record.model_copy(update={"silent_since": silent_since(record, attempt, view)})


def _told_to_end(record: AttemptStatus, attempt: Attempt | None, status: Status, view: View) -> AttemptStatus:
    """`record`, marked as ended if its attempt is ending or has to, and with our reason if we have one.

    That its queue takes it back may be seen only after its pods are seen to go, and is then the reason all the same.
    """
    order = None if attempt is None else loss_of_place(record, attempt)
    has_ended = record.ended_at is not None or attempt is None or _is_ending(attempt)
    if order is None and not has_ended:
        assert attempt is not None
        order = order_to_end(record, attempt, status, view)
    if order is None and not has_ended:
        return record
    ended = record.model_copy(update={"ended_at": record.ended_at or text.timestamp(view.now)})
    return ended if order is None else ended.model_copy(update={"cause": str(order.cause), "message": order.message})


def _is_settled(record: AttemptStatus, attempt: Attempt | None, view: View) -> bool:
    """Whether the workers have said what they have to say, or had the time for it."""
    if attempt is None or is_over(attempt) or (record.cause is not None and not is_stopping(record)):
        return True
    assert record.ended_at is not None
    is_broken = any(worker.state is WorkerState.FAILED and not _has_saved(worker) for worker in attempt.workers)
    patience = SETTLE_SECONDS if is_broken else view.stop_seconds
    return view.now - text.seconds_of(record.ended_at) >= patience


def _has_saved(worker: Worker) -> bool:
    """Whether this end was agreed by all ranks, so that the others are about to follow."""
    return worker.exit_code == ExitCode.PREEMPTED


def _decided(
    record: AttemptStatus, attempt: Attempt | None, status: Status, view: View
) -> tuple[AttemptStatus, RecoveryStatus | None]:
    ending = _ending(record, attempt)
    recovery = recovered(ending, record.number, status, view)
    budget = Budget(failures=status.failures, max_restarts=view.run.spec.recovery.max_restarts)
    verdict = decide(ending, budget, has_remedy=recovery is not None)
    decided = record.model_copy(
        update={
            "cause": str(ending.cause),
            "reason": ending.reason,
            "message": _message(ending, verdict, budget, status, view),
            "decision": str(verdict),
            "exit_code": ending.exit_code,
            "rank": ending.rank,
            "node": ending.node,
            "suspect_node": suspect_node(ending),
            "remedy": recovery.remedies[-1].remedy if recovery is not None else None,
            "stacks": _stacks(ending, view),
            "steps_lost": None if verdict is Verdict.FINISH else _steps_lost(record, status),
        }
    )
    return decided, recovery or status.recovery


def _message(ending: Ending, verdict: Verdict, budget: Budget, status: Status, view: View) -> str:
    """What went wrong; for a run that is given up, also what was tried and what a person can do."""
    message = ending.message
    if verdict is not Verdict.GIVE_UP:
        return text.shortened(message, _MESSAGE_LIMIT)
    if decide(ending, Budget(failures=0, max_restarts=1)) is Verdict.RETRY:
        message = f"failed {budget.failures + 1} times with recovery.maxRestarts {budget.max_restarts}; last: {message}"
    remedy = advice(ending, status, view)
    tail = "" if remedy is None else text.shortened(f"; {remedy}", _MESSAGE_LIMIT // 2)
    return text.shortened(message, _MESSAGE_LIMIT - len(tail)) + tail


def _stacks(ending: Ending, view: View) -> str | None:
    """Where a person finds the stacks of an attempt that hung."""
    if ending.stacks_dir is None:
        return None
    claim = view.observation.output_claim
    return ending.stacks_dir if claim is None else f"claim {claim}: {ending.stacks_dir}"


def _ending(record: AttemptStatus, attempt: Attempt | None) -> Ending:
    """How the attempt ended; what we ended ourselves, we ended for our own reason, unless it was done by then."""
    if record.cause is not None and (attempt is None or done_outcome(attempt) is None):
        return Ending(
            cause=Cause(record.cause), reason=record.cause, message=record.message or "", node=_only_node(attempt)
        )
    if attempt is not None:
        return classify(attempt)
    gone = "its workers are gone without a trace; they may have been deleted by hand"
    return Ending(cause=Cause.INFRASTRUCTURE, reason="WorkersGone", message=gone)


def _only_node(attempt: Attempt | None) -> str | None:
    """The node of an attempt that has a single one: whatever went wrong, went wrong there."""
    return attempt.workers[0].node if attempt is not None and len(attempt.workers) == 1 else None


def _steps_lost(record: AttemptStatus, status: Status) -> int | None:
    """Steps that the next attempt has to do again; None: not known."""
    if record.last_step is None:
        return None
    saved = status.checkpoint.step if status.checkpoint is not None else 0
    return max(0, record.last_step - saved)

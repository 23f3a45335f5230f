"""How a run becomes final, and what that means: it stays so, whatever becomes of its children."""

from finetune_contract import Outcome
from finetune_operator.failures import Verdict
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.progress import at_rest, completed
from finetune_operator.planning import push_target
from finetune_operator.resource import Mode, Qwen3FineTune
from finetune_operator.status import ArtifactStatus, FailureStatus, Status

_MESSAGE_LIMIT = 4096


def is_final(status: Status, run: Qwen3FineTune) -> bool:
    """Whether nothing will be started any more.

    What failed before anything was started is free at a new generation, and so is a push after the training's end.
    """
    if status.completion_time is None or not _has_an_end(status, run):
        return False
    if status.failure is not None and (status.start_time is None or status.artifacts):
        return status.failure.observed_generation == run.metadata.generation
    return not is_push_owed(status, run)


def _has_an_end(status: Status, run: Qwen3FineTune) -> bool:
    """Whether a record says what the run came to; a time alone is the end of a plan, or was written by hand."""
    last = status.attempts[-1].decision if status.attempts else None
    is_ended = status.failure is not None or bool(status.artifacts) or last in (Verdict.FINISH, Verdict.GIVE_UP)
    return is_ended or run.spec.mode is Mode.PLAN


def is_push_owed(status: Status, run: Qwen3FineTune) -> bool:
    """Whether what `run` has made is still to be brought to a hub."""
    return bool(status.artifacts) and run.spec.output.push is not None and not is_pushed(status, run)


def is_pushed(status: Status, run: Qwen3FineTune) -> bool:
    """Whether it stands where spec.output.push says."""
    push, record = run.spec.output.push, status.push
    is_done = record is not None and record.decision == Verdict.FINISH
    return push is not None and record is not None and is_done and record.target == push_target(run, push)


def given_up(status: Status, reason: str, message: str, view: View) -> Status:
    """`status` of a run that has failed for good."""
    failure = FailureStatus(
        reason=reason,
        message=text.shortened(message, _MESSAGE_LIMIT),
        observed_generation=view.run.metadata.generation,
    )
    rested = status if status.artifacts else at_rest(status)  # a training that was completed has not stopped
    return rested.model_copy(update={"failure": failure, "completion_time": text.timestamp(view.now)})


def finished(status: Status, outcome: Outcome, view: View) -> Status:
    """`status` of a run that has reached its last step, with what it leaves behind."""
    assert outcome.result is not None
    artifacts = tuple(
        ArtifactStatus(claim=view.observation.output_claim, **artifact.model_dump())
        for artifact in outcome.result.artifacts
    )
    return completed(status, outcome.result).model_copy(update={"artifacts": artifacts})


def planned_only(status: Status, view: View) -> Status:
    """`status` of a run in mode Plan whose plan is final."""
    return status.model_copy(update={"completion_time": text.timestamp(view.now)})


def reopened(status: Status) -> Status:
    """`status` of a failed run that a person asks for once more: a fresh budget, and its checkpoints to go on from.

    If only its push has failed, only that is done again. A run that has succeeded, or has not ended, is left as it is.
    """
    if status.failure is None:
        return status
    if status.artifacts:
        return _reopened_push(status)
    attempts = status.attempts
    if attempts:
        last = attempts[-1].model_copy(update={"decision": str(Verdict.RETRY_UNCOUNTED)})
        attempts = (*attempts[:-1], last)
    fresh = {"failure": None, "completion_time": None, "failures": 0, "preparation_failures": ()}
    return status.model_copy(update={"attempts": attempts, **fresh})


def _reopened_push(status: Status) -> Status:
    """A push that was given up may be tried again; one that succeeded stays done."""
    push = status.push
    if push is not None and push.decision == Verdict.GIVE_UP:
        push = push.model_copy(update={"decision": str(Verdict.RETRY_UNCOUNTED), "failures": 0})
    return status.model_copy(update={"failure": None, "completion_time": None, "push": push})

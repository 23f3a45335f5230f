"""How a run becomes final, and what that means: it stays so, whatever becomes of its children."""

from finetune_contract import Outcome
from finetune_operator.failures import Verdict
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.progress import at_rest, completed
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.status import ArtifactStatus, FailureStatus, Status

_MESSAGE_LIMIT = 4096


def is_final(status: Status, run: Qwen3FineTune) -> bool:
    """Whether nothing will be started any more. What failed before anything was started is free at a new generation."""
    if status.completion_time is None:
        return False
    if status.start_time is None and status.failure is not None:
        return status.failure.observed_generation == run.metadata.generation
    return True


def given_up(status: Status, reason: str, message: str, view: View) -> Status:
    """`status` of a run that has failed for good."""
    failure = FailureStatus(
        reason=reason,
        message=text.shortened(message, _MESSAGE_LIMIT),
        observed_generation=view.run.metadata.generation,
    )
    return at_rest(status).model_copy(update={"failure": failure, "completion_time": text.timestamp(view.now)})


def finished(status: Status, outcome: Outcome, view: View) -> Status:
    """`status` of a run that has reached its end, with what it leaves behind."""
    assert outcome.result is not None
    artifacts = tuple(
        ArtifactStatus(claim=view.observation.output_claim, **artifact.model_dump())
        for artifact in outcome.result.artifacts
    )
    done = {"artifacts": artifacts, "completion_time": text.timestamp(view.now)}
    return completed(status, outcome.result).model_copy(update=done)


def planned_only(status: Status, view: View) -> Status:
    """`status` of a run in mode Plan whose plan is final."""
    return status.model_copy(update={"completion_time": text.timestamp(view.now)})


def reopened(status: Status) -> Status:
    """`status` of a failed run that a person asks for once more: a fresh budget, and its checkpoints to go on from.

    A run that has succeeded, or has not ended, is left as it is.
    """
    if status.failure is None:
        return status
    attempts = status.attempts
    if attempts:
        last = attempts[-1].model_copy(update={"decision": str(Verdict.RETRY_UNCOUNTED)})
        attempts = (*attempts[:-1], last)
    fresh = {"failure": None, "completion_time": None, "failures": 0, "preparation_failures": ()}
    return status.model_copy(update={"attempts": attempts, **fresh})

"""The record of every attempt, and why a run failed."""

from typing import Annotated

from pydantic import StringConstraints

from finetune_operator.status.base import Line, Message, StatusModel, Timestamp


class FailureStatus(StatusModel):
    """Why the run has failed for good: written once, with `completion_time`."""

    reason: Annotated[str, StringConstraints(max_length=64)]
    """CamelCase, as in the condition."""
    message: Message
    """What went wrong, and what to do about it."""
    observed_generation: int
    """If nothing had been started, a later generation is planned afresh."""


class AttemptStatus(StatusModel):
    """Record of one attempt; `cause` and `decision` are there once it has ended."""

    number: int
    """From 1 on."""
    started_at: Timestamp
    """When its workers were made."""
    running_since: Timestamp | None = None
    """When every worker was first seen running."""
    ended_at: Timestamp | None = None
    """When it was first seen to end, or was told to; its workers may live on until `decision` is there."""
    silent_since: Timestamp | None = None
    """Since when rank 0 has told nothing although every worker runs; absent while it is heard."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that it began with; absent: it began at the base model."""
    last_step: int | None = None
    """The last step it is known to have done."""
    cause: Line | None = None
    """A value of `failures.Cause`."""
    reason: Line | None = None
    """The trainer's own word, where it had one: `BadRows`."""
    message: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """What went wrong, in words."""
    decision: Line | None = None
    """A value of `failures.Verdict`."""
    exit_code: int | None = None
    """Of the rank that failed first."""
    rank: int | None = None
    """That failed first."""
    node: Line | None = None
    """Of that rank."""
    suspect_node: Line | None = None
    """The node that the failure points at; attempts after this one keep away from it where they can."""
    remedy: Line | None = None
    """What is changed for the attempts after this one, see `recovery`: a value of its `remedies[].remedy`."""
    stacks: Annotated[str, StringConstraints(max_length=600)] | None = None
    """Of an attempt that hung: the volume claim and the folder on it with the stacks of all ranks."""
    steps_lost: int | None = None
    """Steps done after the newest checkpoint, which have to be done again."""
    gpus: int | None = None
    """GPUs that it had; absent: an earlier release recorded it."""
    first_step_at: Timestamp | None = None
    """When its first step was seen."""
    saved_at: Timestamp | None = None
    """When its newest checkpoint was first seen: what was done before is kept."""
    released_at: Timestamp | None = None
    """When none of its workers was left, and its GPUs were free."""

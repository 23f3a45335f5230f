"""What a run left behind, and where it was pushed."""

from typing import Annotated

from pydantic import StringConstraints

from finetune_operator.status.base import Line, StatusModel, Timestamp


class PushedStatus(StatusModel):
    """Where an artifact stands on a hub."""

    url: Annotated[str, StringConstraints(max_length=500)]
    """Where people see it."""
    commit: Line | None = None
    """That holds it; absent on ModelScope, which does not tell."""


class ArtifactStatus(StatusModel):
    """What the run left behind."""

    kind: Line
    """Adapter, MergedModel or Model."""
    path: Line
    """Folder, in the trainer's file system."""
    claim: Line | None = None
    """The PersistentVolumeClaim that `path` lies on."""
    digest: Line
    """Over the sorted names and digests of its files."""
    bytes: int
    """Its size."""
    serve: Annotated[str, StringConstraints(max_length=600)] | None = None
    """vLLM's command for it, or what keeps vLLM from serving it."""
    pushed: PushedStatus | None = None
    """Where it stands on a hub, once it does."""


class PushStatus(StatusModel):
    """Record of the newest push; `cause` and `decision` are there once it has ended."""

    number: int
    """From 1 on."""
    target: Annotated[str, StringConstraints(max_length=512)]
    """What is pushed and where."""
    request: Line
    """Key of spec.output.push as it was when this began."""
    started_at: Timestamp
    """When its pod was asked for."""
    ended_at: Timestamp | None = None
    """When it was seen to end."""
    failures: int = 0
    """Pushes by this request that failed and count against recovery.maxRestarts."""
    cause: Line | None = None
    """A value of `failures.Cause`."""
    reason: Line | None = None
    """The trainer's own word, where it had one: `TokenRefused`."""
    message: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Where it stands now, or what went wrong, in words."""
    decision: Line | None = None
    """A value of `failures.Verdict`."""

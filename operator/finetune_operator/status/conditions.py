"""Where a run is, in one word and as conditions."""

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints

from finetune_operator.status.base import Message, StatusModel, Timestamp


class Phase(StrEnum):
    """One word for where a run is; derived, for people and printer columns."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    PUSHING = "Pushing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


TERMINAL_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class ConditionType(StrEnum):
    """What can be true of a run. `Succeeded` sums up: True done, False failed for good, Unknown under way."""

    PLANNED = "Planned"
    PREPARED = "Prepared"
    RUNNING = "Running"
    """A rank of the current attempt has done a step, and the attempt has not ended."""
    SUSPENDED = "Suspended"
    HEALTHY = "Healthy"
    """No indicator of the running attempt has been beyond its limit for five minutes."""
    PUSHED = "Pushed"
    """What the run made stands on the hub that spec.output.push names; absent when it names none."""
    SUCCEEDED = "Succeeded"


class ConditionStatus(StrEnum):
    """Kubernetes' three truth values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One condition in Kubernetes' own form."""

    type: ConditionType
    status: ConditionStatus
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=64)]
    """CamelCase, for programs."""
    message: Message
    """For people."""
    observed_generation: int
    """Of the spec that this was said about."""
    last_transition_time: Timestamp
    """When `status` changed last."""

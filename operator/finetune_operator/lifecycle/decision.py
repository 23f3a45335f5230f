"""What a pass comes to: the next status, what to do, what to tell, when to look again."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_operator.observation import Observation
from finetune_operator.planning import Plan, PlanError
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import RecoveryStatus, Status

Planning = Callable[[RecoveryStatus | None], Plan | PlanError]
"""The plan of the facts with what memory failures have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision rests on, besides the previous status."""

    run: Qwen3FineTune
    observation: Observation
    plan: Planning
    """What planning says of the facts; asked only when it matters, since it takes milliseconds."""
    settings: Settings
    now: float
    """Unix seconds."""

    @property
    def stop_seconds(self) -> float:
        """How long workers that were told to stop may take before they are removed."""
        return self.settings.pods.grace_seconds + self.settings.fencing_grace_seconds


@dataclass(frozen=True, slots=True)
class StartPreparation:
    """Volumes and the preparation are to be there."""


@dataclass(frozen=True, slots=True)
class ClearPreparation:
    """The preparation's workers are to go."""


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """The workers of this attempt are to be there."""

    number: int


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """The workers of this attempt are to save and stop; with `force`, to be gone."""

    number: int
    force: bool


@dataclass(frozen=True, slots=True)
class StartPush:
    """The pod of this push is to be there."""

    number: int


@dataclass(frozen=True, slots=True)
class StopPush:
    """The pod of this push is to go."""

    number: int


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """The resource itself is to go."""


Action = StartPreparation | ClearPreparation | StartAttempt | StopAttempt | StartPush | StopPush | DeleteRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened once."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one pass comes to; the status is to be written before the first action."""

    status: Status
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    next_look_seconds: float | None = None
    """None: nothing will change by itself any more."""

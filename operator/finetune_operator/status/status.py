"""The status of a run, as it stands in the resource: written once a pass, from observation alone.

Three kinds of field live here. Durable records (`preparation`, `plan`, `attempts`, `recovery`, `failure`, the times)
are facts that were seen once and whose witnesses may be gone later; they are only ever added to. `progress` and
`checkpoint` are the newest observation. `phase` and `conditions` are derived from both on every pass and never read
back.
"""

from typing import Annotated, Any

from pydantic import Field

from finetune_operator.status.attempts import AttemptStatus, FailureStatus
from finetune_operator.status.base import MAX_ATTEMPTS, Line, StatusModel, Timestamp
from finetune_operator.status.conditions import Condition, Phase
from finetune_operator.status.cost import CostStatus
from finetune_operator.status.plan import PlanStatus
from finetune_operator.status.preparation import DatasetStatus, ModelStatus, PreparationFailureStatus, PreparationStatus
from finetune_operator.status.progress import CheckpointStatus, ProgressStatus
from finetune_operator.status.recovery import RecoveryStatus
from finetune_operator.status.results import ArtifactStatus, PushStatus


class Status(StatusModel):
    """The whole status; see the module's docstring for what is memory and what is derived."""

    observed_generation: int | None = None
    """Of the spec that this status speaks of."""
    phase: Phase = Phase.PENDING
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """What is true of the run; `Succeeded` sums up."""
    start_time: Timestamp | None = None
    """When the first object of the run was made; from then on the spec is fixed but for a few fields."""
    suspended_since: Timestamp | None = None
    """When the present suspension began; absent: not suspended."""
    suspended_seconds: int = 0
    """Earlier suspensions, added up; the deadline for the first step does not count them."""
    active_seconds: int = 0
    """For how long the workers of ended attempts ran, added up; scheduling.activeDeadlineSeconds counts it."""
    queue: Line | None = None
    """The queue that the run names, with its place while it waits there: `research #3`; `none` if it names none."""
    completion_time: Timestamp | None = None
    """When the run had succeeded or failed for good."""
    plan: PlanStatus | None = None
    model: ModelStatus | None = None
    dataset: DatasetStatus | None = None
    preparation: PreparationStatus | None = None
    preparation_failures: Annotated[tuple[PreparationFailureStatus, ...], Field(max_length=MAX_ATTEMPTS)] = ()
    """Preparations that ended badly."""
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    attempts: Annotated[tuple[AttemptStatus, ...], Field(max_length=MAX_ATTEMPTS)] = ()
    """The newest attempts, oldest first."""
    recovery: RecoveryStatus | None = None
    restarts: int = 0
    """Attempts after the first, for whatever cause."""
    failures: int = 0
    """Of these, how many count against recovery.maxRestarts."""
    final_loss: Line | None = None
    """Of the last step."""
    validation_loss: Line | None = None
    """Of the weights that the artifacts hold."""
    artifacts_step: int | None = None
    """The step whose weights the artifacts hold: with evaluation.loadBest the best one's."""
    stopped_early: bool = False
    """Whether the validation loss ended the run before its last step, as evaluation.patience says."""
    artifacts: Annotated[tuple[ArtifactStatus, ...], Field(max_length=4)] = ()
    """What the run left behind."""
    push: PushStatus | None = None
    """The newest push."""
    cost: CostStatus | None = None
    failure: FailureStatus | None = None

    def to_body(self) -> dict[str, Any]:
        """As it stands in the resource."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

"""The status of a run, as it stands in the resource: written once a pass, from observation alone.

Three kinds of field live here. Durable records (`preparation`, `plan`, `attempts`, `start_time`) are facts that were
seen once and whose witnesses may be gone later; they are only ever added to. `progress`, `checkpoint` and `observed_*`
are the newest observation. `phase` and `conditions` are derived from both on every pass and never read back.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

MAX_ATTEMPTS = 20
"""Attempts kept in status; older ones are dropped from the front, their number stays in `restarts`."""

Line = Annotated[str, StringConstraints(max_length=256)]
Message = Annotated[str, StringConstraints(max_length=4096)]
Timestamp = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", max_length=20)]


class StatusModel(BaseModel):
    """camelCase outside; unknown keys are ignored, since a newer operator may have written them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Phase(StrEnum):
    """One word for where a run is; derived, for people and printer columns."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
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
    message: Message
    observed_generation: int
    last_transition_time: Timestamp


class MemoryComponent(StatusModel):
    """One line of the memory estimate, per GPU."""

    name: Line
    bytes: int


class PlanStatus(StatusModel):
    """What was worked out, before a GPU was asked for."""

    strategy: Line
    """`DDP`, `FSDP`, `DeepSpeed ZeRO-3, optimizer and parameters on CPU`."""
    nodes: int
    gpus: int
    micro_batch: int
    accumulation_steps: int
    global_batch: int
    activation_checkpointing: Line
    total_steps: int | None = None
    """Known once the dataset is."""
    memory: Annotated[tuple[MemoryComponent, ...], Field(max_length=16)] = ()
    memory_bytes: int
    """Estimated peak per GPU: the sum of the components."""
    gpu_memory_bytes: int | None = None
    """What one GPU has; absent: not known, so fit was not checked."""
    batch: Line
    """The batch arithmetic in words."""
    final: bool
    """False until the dataset's lengths are known."""


class DatasetStatus(StatusModel):
    """What the preparation found; see `finetune_contract.DatasetReport`."""

    rows: int
    validation_rows: int
    sequences: int
    tokens: int
    supervised_tokens: int
    length_p50: int
    length_p95: int
    length_max: int
    longest_sequence: int
    truncated_rows: int
    dropped_rows: int
    think_blocks: int
    packing_efficiency: float
    digest: Line


class ModelStatus(StatusModel):
    """The model's shape and where it was prepared; see `finetune_contract.ModelFacts`."""

    revision: Line | None = None
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool


class PreparationStatus(StatusModel):
    """Record of a finished preparation: what the attempts start from."""

    model_dir: Line
    tokens_dir: Line
    finished_at: Timestamp


class ProgressStatus(StatusModel):
    """The newest progress that rank 0 reported."""

    attempt: int
    stage: Line
    step: int
    total_steps: int
    percent: Line
    """`42%`, of the steps."""
    epoch: float
    loss: Line | None = None
    """Text, since a resource holds no float that every client prints alike."""
    validation_loss: Line | None = None
    learning_rate: Line | None = None
    tokens_per_second: int | None = None
    step_seconds: Line | None = None
    eta: Line | None = None
    """`1h12m`."""
    peak_memory: Line | None = None
    """`53.9Gi`, largest over the GPUs."""
    updated_at: Timestamp
    stale: bool = False
    """True when rank 0 has not been heard of for longer than the operator's limit: the figures above are old."""


class CheckpointStatus(StatusModel):
    """The newest complete checkpoint."""

    step: int
    path: Line
    bytes: int


class AttemptStatus(StatusModel):
    """Record of one attempt; `cause` and `decision` are there once it has ended."""

    number: int
    started_at: Timestamp
    ended_at: Timestamp | None = None
    resumed_from_step: int | None = None
    last_step: int | None = None
    cause: Line | None = None
    """A value of `failures.Cause`."""
    message: Annotated[str, StringConstraints(max_length=1024)] | None = None
    decision: Line | None = None
    """A value of `failures.Verdict`."""
    exit_code: int | None = None
    rank: int | None = None
    node: Line | None = None
    steps_lost: int | None = None


class ArtifactStatus(StatusModel):
    """What the run left behind."""

    kind: Line
    path: Line
    claim: Line | None = None
    """The PersistentVolumeClaim that `path` lies on."""
    digest: Line
    bytes: int


class Status(StatusModel):
    """The whole status; see the module's docstring for what is memory and what is derived."""

    observed_generation: int | None = None
    phase: Phase = Phase.PENDING
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    start_time: Timestamp | None = None
    """When the first object of the run was made; from then on the spec is fixed but for a few fields."""
    completion_time: Timestamp | None = None
    plan: PlanStatus | None = None
    model: ModelStatus | None = None
    dataset: DatasetStatus | None = None
    preparation: PreparationStatus | None = None
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    attempts: Annotated[tuple[AttemptStatus, ...], Field(max_length=MAX_ATTEMPTS)] = ()
    restarts: int = 0
    """Attempts after the first, for whatever cause."""
    failures: int = 0
    """Of these, how many count against recovery.maxRestarts."""
    final_loss: Line | None = None
    validation_loss: Line | None = None
    artifacts: Annotated[tuple[ArtifactStatus, ...], Field(max_length=4)] = ()

    def to_body(self) -> dict[str, Any]:
        """As it stands in the resource."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

"""The status of a run, as it stands in the resource: written once a pass, from observation alone.

Three kinds of field live here. Durable records (`preparation`, `plan`, `attempts`, `failure`, the times) are facts that
were seen once and whose witnesses may be gone later; they are only ever added to. `progress` and `checkpoint` are the
newest observation. `phase` and `conditions` are derived from both on every pass and never read back.
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


class MemoryComponent(StatusModel):
    """One line of the memory estimate, per GPU."""

    name: Line
    """What takes it."""
    bytes: int
    """How much."""


class BatchStageStatus(StatusModel):
    """A part of the run with one size of its growing batch."""

    samples: int
    """Sequences per optimizer step."""
    accumulation_steps: int
    """Forward passes per optimizer step."""
    first_step: int | None = None
    """The step that has it first; known once the dataset is."""


class PlanStatus(StatusModel):
    """What was worked out, before a GPU was asked for."""

    model: Line | None = None
    """What the run starts from: `Qwen/Qwen3-8B`, `models/qwen3 (volume)`; absent: the plan is of an earlier release."""
    strategy: Line
    """`DDP`, `FSDP`, `DeepSpeed ZeRO-3, optimizer and parameters on CPU`."""
    nodes: int
    """Pods, one per node."""
    gpus: int
    """Ranks, one per GPU."""
    micro_batch: int
    """Sequences per GPU in one forward pass."""
    accumulation_steps: int
    """Forward passes per optimizer step."""
    global_batch: int
    """Sequences per optimizer step: microBatch x accumulationSteps x gpus."""
    activation_checkpointing: Line
    """Whether activations are recomputed in the backward pass."""
    total_steps: int | None = None
    """Known once the dataset is."""
    memory: Annotated[tuple[MemoryComponent, ...], Field(max_length=16)] = ()
    """The memory estimate, line by line."""
    memory_bytes: int
    """Estimated peak per GPU: the sum of the components."""
    gpu_memory_bytes: int | None = None
    """What one GPU has; absent: not known, so fit was not checked."""
    batch: Line
    """The batch arithmetic in words."""
    stages: Annotated[tuple[BatchStageStatus, ...], Field(max_length=24)] = ()
    """How the batch grows, smallest first; absent: it does not."""
    final: bool
    """False until the dataset's lengths are known."""


class LengthBinStatus(StatusModel):
    """Rows of about one length."""

    up_to: int
    """Tokens: more than half of this, and at most this."""
    rows: int
    """How many there are."""


class SourceStatus(StatusModel):
    """What one source of a mix brought, before weights and validation."""

    rows: int
    """Read, bad ones too."""
    tokens: int
    """Of the rows that were kept."""
    bad_rows: int
    """Left out, as dataset.badRows allows."""


class DatasetStatus(StatusModel):
    """What the preparation found; see `finetune_contract.DatasetReport`."""

    rows: int
    """Training rows of one epoch; one that a weight takes twice counts twice."""
    validation_rows: int
    """Rows held out."""
    sequences: int
    """What a step's batch counts: packed sequences with packing, else rows."""
    tokens: int
    """Training tokens of one epoch."""
    supervised_tokens: int
    """Of these, tokens that carry loss."""
    length_p50: int
    """Median length of a row, in tokens, before truncation."""
    length_p95: int
    """Length that 95 of 100 rows do not exceed."""
    length_p99: int
    """Length that 99 of 100 rows do not exceed."""
    length_max: int
    """Length of the longest row."""
    lengths: Annotated[tuple[LengthBinStatus, ...], Field(max_length=24)]
    """Rows by length, shortest first."""
    longest_sequence: int
    """In tokens, after packing and truncation: what the memory estimate counts with."""
    truncated_rows: int
    """Rows that lost their end to maxTokens."""
    dropped_rows: int
    """Rows left out: overlong, or without a supervised token."""
    skipped_rows: int
    """Bad rows left out, as dataset.badRows allows."""
    duplicate_rows: int
    """Rows that equal an earlier one; they stay."""
    duplicate_ids: int
    """Rows whose `id` an earlier one has; they stay."""
    left_out_duplicates: int
    """Rows not trained on since the validation's own source has equal ones."""
    think_blocks: int
    """Assistant turns with reasoning of their own."""
    packing_efficiency: float
    """Share of the packed sequences that is tokens."""
    sources: Annotated[tuple[SourceStatus, ...], Field(max_length=16)] = ()
    """What each source of a mix brought, in its order."""
    template_digest: Line | None = None
    """SHA-256 of the chat template that rows were rendered with; absent: plain text alone."""
    digest: Line
    """Key of the token cache: content, tokenizer, template and options."""


class ModelStatus(StatusModel):
    """The model's shape and where it was prepared; see `finetune_contract.ModelFacts`."""

    revision: Line | None = None
    """Commit that the hub resolved the revision to; absent for a volume."""
    hidden_size: int
    """Width of the model."""
    intermediate_size: int
    """Width of the feed-forward layers."""
    num_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Tokens that the model knows."""
    tied_embeddings: bool
    """Whether input and output embeddings are one matrix."""


class PreparationStatus(StatusModel):
    """Record of a finished preparation: what the attempts start from."""

    model_dir: Line
    """Folder of the model in the cache volume."""
    tokens_dir: Line
    """Folder of the token cache in the cache volume."""
    finished_at: Timestamp
    """When it had ended."""


class PreparationFailureStatus(StatusModel):
    """Record of a preparation that ended badly."""

    started_at: Timestamp
    """When its Job was made."""
    cause: Line
    """A value of `failures.Cause`."""
    message: Annotated[str, StringConstraints(max_length=1024)]
    """What went wrong."""
    decision: Line
    """A value of `failures.Verdict`."""


class FailureStatus(StatusModel):
    """Why the run has failed for good: written once, with `completion_time`."""

    reason: Annotated[str, StringConstraints(max_length=64)]
    """CamelCase, as in the condition."""
    message: Message
    """What went wrong, and what to do about it."""
    observed_generation: int
    """If nothing had been started, a later generation is planned afresh."""


class AlarmStatus(StatusModel):
    """An indicator beyond its limit."""

    indicator: Line
    """`GpuUtilisation`, `MemoryBalance`, `Communication` or `Loss`."""
    value: Line
    """When it was last measured."""
    threshold: Line
    """Where the alarm begins."""
    remedy: Annotated[str, StringConstraints(max_length=400)]
    """What to try, in the fields of the spec."""
    since: Timestamp
    """When the indicator went beyond its limit."""
    standing: bool = False
    """True once it has stayed so for five minutes: then the condition Healthy is False."""


class TrackerStatus(StatusModel):
    """What became of an experiment tracker; none of them stops or slows training."""

    name: Line
    """`swanlab`, `tensorboard`, `wandb` or `mlflow`."""
    state: Line
    """Connecting, Live, Stalled or Down."""
    dropped: int = 0
    """Points that never reached it."""
    url: Annotated[str, StringConstraints(max_length=300)] | None = None
    """Where the run is shown."""
    message: Annotated[str, StringConstraints(max_length=300)] | None = None
    """Why it is Stalled or Down."""


class ProgressStatus(StatusModel):
    """The newest progress that rank 0 reported."""

    attempt: int
    """Which attempt said so."""
    stage: Line
    """What the trainer is doing."""
    step: int
    """Optimizer steps done since the run began, earlier attempts included."""
    total_steps: int
    """Optimizer steps in all."""
    percent: Line
    """`42%`, of the steps."""
    epoch: float
    """Passes over the training rows so far."""
    loss: Line | None = None
    """Text, since a resource holds no float that every client prints alike."""
    validation_loss: Line | None = None
    """Of the newest evaluation."""
    best_validation_loss: Line | None = None
    """The lowest so far."""
    best_step: int | None = None
    """The step after which it was found."""
    skipped_steps: int = 0
    """Steps of the whole run that changed nothing, since loss or gradient norm was not finite."""
    interventions: Annotated[tuple[Line, ...], Field(max_length=8)] = ()
    """What was done about such steps and about a diverging loss, as stability says; the newest ones, oldest first."""
    learning_rate: Line | None = None
    """Of the last step."""
    tokens_per_second: int | None = None
    """Real (non-padding) tokens of all ranks."""
    step_seconds: Line | None = None
    """Median of the last steps."""
    eta: Line | None = None
    """`1h12m`."""
    peak_memory: Line | None = None
    """`53.9Gi`, largest over the GPUs."""
    samples_per_second: Line | None = None
    """Conversations of all ranks, however they are packed."""
    mfu: Line | None = None
    """`41%`: share of the GPUs' bf16 peak that the model's own operations need."""
    gpu_utilisation: Line | None = None
    """Of the least busy GPU."""
    memory_imbalance: Line | None = None
    """Peak memory of the fullest GPU / mean: 1.00 is balanced."""
    communication: Line | None = None
    """Share of a step in which the ranks only communicate."""
    data_wait: Line | None = None
    """Share of the time in which the slowest rank waits for data."""
    loss_trend: Line | None = None
    """Change of the loss over the last steps; 0% where noise explains it."""
    alarms: Annotated[tuple[AlarmStatus, ...], Field(max_length=8)] = ()
    """Indicators that are beyond their limits."""
    trackers: Annotated[tuple[TrackerStatus, ...], Field(max_length=8)] = ()
    """The trackers that the spec asks for."""
    updated_at: Timestamp
    """When the trainer did its last step or changed its stage."""
    stale: bool = False
    """True when rank 0 has not been heard of for longer than the operator's limit: the figures above are old."""


class CheckpointStatus(StatusModel):
    """The newest complete checkpoint."""

    step: int
    """Optimizer steps done when it was taken."""
    path: Line
    """In the output volume."""
    bytes: int
    """Its size."""


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
    steps_lost: int | None = None
    """Steps done after the newest checkpoint, which have to be done again."""


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
    failure: FailureStatus | None = None

    def to_body(self) -> dict[str, Any]:
        """As it stands in the resource."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

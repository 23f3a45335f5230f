"""What the trainer answers: progress while it runs, an outcome when it ends, an exit code always.

Outcomes travel as the container's termination message, which Kubernetes cuts at 4,096 bytes: every text and list here
is bounded, and `to_message` drops detail until it fits.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.base import CONTRACT_VERSION, ContractModel
from finetune_contract.indicators import MAX_ALARMS, MAX_TRACKERS, Alarm, Indicators, TrackerReport

TERMINATION_MESSAGE_BYTES = 4096
"""Kubernetes' own limit for one container's termination message."""


class ExitCode(IntEnum):
    """Exit codes of the trainer's processes and pods. 1-2 are left to the interpreter, 128+n to signals."""

    DONE = 0
    UNEXPECTED = 1
    """An exception nobody foresaw: a bug of ours or of a library."""
    USER_ERROR = 64
    """The run cannot work as written: bad rows, missing model, bad target, disk full. Retrying is useless."""
    OUT_OF_MEMORY = 65
    """The GPU's memory did not suffice."""
    NOT_A_NUMBER = 66
    """Loss or gradient norm was not finite."""
    INFRASTRUCTURE = 67
    """Communication or hardware failed; the same run may work elsewhere."""
    HANG = 68
    """No rank moved for longer than what it was doing can take; ended by the launcher."""
    PREEMPTED = 75
    """SIGTERM was answered by a saved checkpoint (EX_TEMPFAIL of sysexits.h: try again later)."""


PEER_LOST = "PeerLost"
"""Reason of a failure that is only the echo of another rank's: any other reason is nearer to the root."""


class Stage(StrEnum):
    """What the trainer is doing."""

    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    EXPORTING = "Exporting"
    DONE = "Done"


class CheckpointReport(ContractModel):
    """A complete checkpoint on the output volume."""

    step: int
    path: str
    bytes: int
    seconds: float
    """How long the save took, from the snapshot to its name."""
    blocking_seconds: float
    """Of these, how long the slowest rank did not train."""


class SlowestRank(ContractModel):
    """The rank that the others wait for."""

    rank: int
    host: str = Field(max_length=253)
    """Its machine's own name; in Kubernetes that of its pod."""
    ratio: float
    """Its own time for a step, without waiting for others / median of the other ranks': 1 is balanced."""


Interventions = Annotated[tuple[Annotated[str, Field(max_length=160)], ...], Field(max_length=8)]
"""What was done about steps that were no numbers and about a diverging loss; newest last, the newest ones only."""


class Progress(ContractModel):
    """A snapshot of a running attempt, as rank 0 serves it at `/progress`."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    attempt: int
    stage: Stage
    step: int = Field(ge=0)
    """Optimizer steps done since the run began, earlier attempts included."""
    total_steps: int = Field(ge=1)
    epoch: float = Field(ge=0)
    loss: float | None = None
    """Of the last step: mean over its supervised tokens. None before the first step."""
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    """The lowest so far."""
    best_step: int | None = None
    """After which it was found."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    skipped_steps: int = Field(default=0, ge=0)
    """Steps of the whole run that changed nothing, since loss or gradient norm was not finite."""
    interventions: Interventions = ()
    tokens_per_second: float | None = None
    """Real (non-padding) tokens of all ranks per second, over the last steps."""
    step_seconds: float | None = None
    """Median over the last steps."""
    eta_seconds: float | None = None
    peak_memory_bytes: int | None = None
    """Largest over the ranks, as the accelerator's allocator saw it; host memory on a CPU."""
    expert_imbalance_ratio: float | None = None
    """Tokens of a mixture's busiest expert / mean of its layer, in the layer where that is largest: 1 is balanced."""
    slowest_rank: SlowestRank | None = None
    """At the last sample; None: not measured, or there is but one rank."""
    indicators: Indicators | None = None
    """None before the first step."""
    alarms: tuple[Alarm, ...] = Field(default=(), max_length=MAX_ALARMS)
    """Indicators that are beyond their limits."""
    trackers: dict[str, TrackerReport] = Field(default_factory=dict, max_length=MAX_TRACKERS)
    """By name, those that the run was told to use."""
    resumed_from_step: int | None = None
    """Step of the checkpoint this attempt began with; None: it began at the base model."""
    checkpoint: CheckpointReport | None = None
    """The newest complete one."""
    updated_at: float
    """Unix seconds of the last step or stage change, by the trainer's clock."""
    still_seconds: float = Field(default=0.0, ge=0)
    """How long rank 0 had not moved when this was said; see `patience`."""


class Failure(ContractModel):
    """Why a process ended badly, in words for the person who wrote the run."""

    exit_code: ExitCode
    reason: str = Field(max_length=64)
    """CamelCase, for conditions: `BadRows`, `ModelNotFound`, `OutOfMemory`."""
    message: str = Field(max_length=2000)
    """Field, value seen, values allowed, remedy."""
    details: tuple[str, ...] = Field(default=(), max_length=20)
    """Line numbers and the like, most telling first."""
    rank: int | None = None
    step: int | None = None
    peak_memory_bytes: int | None = None
    """For OUT_OF_MEMORY: what was held."""
    requested_bytes: int | None = None
    """For OUT_OF_MEMORY: what was asked for on top."""
    stacks_dir: str | None = Field(default=None, max_length=300)
    """For HANG: absolute path of the folder on the output volume with what every rank was in the middle of."""


ArtifactKind = Literal["Adapter", "MergedModel", "Model"]
"""PEFT's adapter alone; the base with it merged in; a model of which every weight was trained."""


class Artifact(ContractModel):
    """Something a run leaves behind."""

    kind: ArtifactKind
    path: str
    """Absolute path in the trainer's file system."""
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Over the sorted names and digests of the folder's files."""
    bytes: int
    serve: str = Field(max_length=600)
    """vLLM's command, or what keeps vLLM from serving it."""


class TrainingResult(ContractModel):
    """What a finished run achieved."""

    steps: int
    final_loss: float
    validation_loss: float | None = None
    """Of the weights that the artifacts hold."""
    best_validation_loss: float | None = None
    """The lowest of all looks at the held-out rows."""
    best_step: int | None = None
    """After which it was found."""
    skipped_steps: int = 0
    """Steps that changed nothing, since loss or gradient norm was not finite."""
    trained_tokens: int
    """Real tokens that went through the model, all attempts together."""
    stopped_early: bool = False
    """Whether the validation loss ended the run before its last step."""
    artifacts_step: int | None = None
    """The step whose weights the artifacts hold."""
    artifacts: tuple[Artifact, ...] = Field(max_length=4)


class Outcome(ContractModel):
    """How an attempt ended: exactly one of result, failure, or a preemption that left a checkpoint."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    exit_code: ExitCode
    result: TrainingResult | None = None
    """Present exactly when `exit_code` is DONE."""
    failure: Failure | None = None
    """Present exactly when `exit_code` is neither DONE nor PREEMPTED."""
    checkpoint: CheckpointReport | None = None
    """The newest complete checkpoint when the attempt ended."""
    step: int | None = None
    """Last step done."""
    loss: float | None = None
    """Of that step."""
    interventions: Interventions = ()

    def to_message(self) -> str:
        """This outcome as JSON of at most TERMINATION_MESSAGE_BYTES bytes."""
        return _fitted(self)


class ExpertFacts(ContractModel):
    """The mixture of experts in the layers of a decoder model."""

    count: int
    """Experts per layer."""
    per_token: int
    """How many of them a token goes through."""
    intermediate_size: int
    """Inner width of one expert."""
    dense_layers: tuple[int, ...] = ()
    """Numbers of the layers that have one large MLP instead."""


class ModelFacts(ContractModel):
    """The shape of a decoder model, as its config.json tells it; all that the memory estimate needs."""

    hidden_size: int
    intermediate_size: int
    """Inner width of a dense MLP."""
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    experts: ExpertFacts | None = None
    """None: all layers are dense."""


class LengthBin(ContractModel):
    """Rows of about one length."""

    up_to: int
    """Tokens: more than half of this, and at most this."""
    rows: int


class SourceReport(ContractModel):
    """What one source of a mix brought, before weights and validation."""

    rows: int
    """Read, bad ones too."""
    tokens: int
    """Of the rows that were kept."""
    bad_rows: int


class DatasetReport(ContractModel):
    """What the preparation found in the dataset; `details.json` in the token cache tells the rest."""

    rows: int
    """Training rows of one epoch; one that a weight takes twice counts twice."""
    validation_rows: int
    sequences: int
    """What a step's batch counts: packed sequences with packing, else rows."""
    tokens: int
    """Training tokens of one epoch."""
    supervised_tokens: int
    """Of these, tokens that carry loss."""
    length_p50: int
    length_p95: int
    length_p99: int
    length_max: int
    """Row lengths in tokens, before truncation."""
    lengths: tuple[LengthBin, ...] = Field(max_length=24)
    """Rows by length, shortest first."""
    longest_sequence: int
    """In tokens, after packing and truncation: what the memory estimate counts with."""
    truncated_rows: int
    dropped_rows: int
    skipped_rows: int
    """Bad rows left out, as `bad_rows` allows."""
    duplicate_rows: int
    """Rows to train on that equal an earlier one; they stay."""
    duplicate_ids: int
    """Rows to train on whose `id` an earlier one has; they stay."""
    left_out_duplicates: int
    """Rows not trained on since the validation's own source has equal ones."""
    think_blocks: int
    """Assistant turns with reasoning of their own."""
    packing_efficiency: float
    """Tokens / (sequences x max_tokens) with packing; 1.0 without."""
    sources: tuple[SourceReport, ...] = Field(default=(), max_length=16)
    """In the order of the configuration; empty for a single source."""
    template_digest: str | None = None
    """SHA-256 of the chat template that rows were rendered with; None: the model has none."""
    digest: str
    """Key of the token cache: content, tokenizer, template and options."""


class PrepareOutcome(ContractModel):
    """How the preparation ended: exactly one of (model, dataset) or failure."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    exit_code: ExitCode
    model: ModelFacts | None = None
    model_dir: str | None = None
    """Absolute path of the prepared model in the cache volume."""
    model_revision: str | None = None
    """The commit that a hub resolved the revision to; None for a volume."""
    dataset: DatasetReport | None = None
    tokens_dir: str | None = None
    failure: Failure | None = None

    def to_message(self) -> str:
        """This outcome as JSON of at most TERMINATION_MESSAGE_BYTES bytes."""
        return _fitted(self)


class Pushed(ContractModel):
    """Where an artifact stands on a hub."""

    kind: ArtifactKind
    url: str = Field(max_length=500)
    commit: str | None = Field(default=None, max_length=64)
    """None where the hub does not tell it (ModelScope)."""


class PushOutcome(ContractModel):
    """How a push ended: exactly one of pushed or failure."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    exit_code: ExitCode
    pushed: tuple[Pushed, ...] = Field(default=(), max_length=2)
    failure: Failure | None = None

    def to_message(self) -> str:
        """This outcome as JSON of at most TERMINATION_MESSAGE_BYTES bytes."""
        return _fitted(self)


def _fitted(outcome: Outcome | PrepareOutcome | PushOutcome) -> str:
    text = outcome.model_dump_json(exclude_none=True)
    if len(text.encode()) <= TERMINATION_MESSAGE_BYTES or outcome.failure is None:
        assert len(text.encode()) <= TERMINATION_MESSAGE_BYTES, "only a failure's texts can be long"
        return text
    failure = outcome.failure
    if failure.details:
        shorter = failure.model_copy(update={"details": failure.details[:-1]})
    else:
        shorter = failure.model_copy(update={"message": failure.message[: len(failure.message) * 3 // 4]})
    return _fitted(outcome.model_copy(update={"failure": shorter}))

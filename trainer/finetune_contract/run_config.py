"""What the operator tells the trainer: `PrepareConfig` for the CPU-only preparation, `RunConfig` for an attempt."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from finetune_contract.base import CONTRACT_VERSION, ContractModel
from finetune_contract.batch import BatchConfig
from finetune_contract.methods import Method
from finetune_contract.parallelism import Parallelism
from finetune_contract.schedules import Schedule
from finetune_contract.sources import DatasetConfig, HubKind, ModelSource
from finetune_contract.stability import EvaluationConfig, StabilityConfig
from finetune_contract.tracking import TrackingConfig


class RunIdentity(ContractModel):
    """Which run this is; for logs, metrics and trackers only: nothing is decided by it."""

    name: str
    namespace: str
    uid: str


class ModelOrigin(ContractModel):
    """The repository that a model was fetched from: what an adapter names as its base, wherever it is loaded."""

    hub: HubKind
    id: str
    revision: str | None
    """The commit, where the hub told it; else the branch or tag that was asked for."""


class Precision(StrEnum):
    """Number format of the matrix products; master weights and optimizer state are always fp32."""

    BF16 = "Bf16"
    FP16 = "Fp16"
    FP32 = "Fp32"


class OptimizerConfig(ContractModel):
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101)."""

    peak_learning_rate: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Global gradient norm that clipping brings a step down to; None: no clipping."""


class ActivationCheckpointing(StrEnum):
    """Which layers recompute their activations in the backward pass."""

    NONE = "None"
    FULL = "Full"


class CheckpointConfig(ContractModel):
    """How often the state is saved, and how many saved states stay."""

    every_steps: int = Field(ge=1)
    keep: int = Field(ge=1)
    asynchronous: bool = True
    """Training goes on while a checkpoint is written; each rank then holds its share of it in host memory."""


class PrepareConfig(ContractModel):
    """Everything the CPU-only preparation needs; it writes into the cache volume and answers with a PrepareOutcome."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    run: RunIdentity
    model: ModelSource
    dataset: DatasetConfig
    method: Method
    """So that a target that matches nothing is refused before a GPU is asked for."""
    cache_dir: str
    """Absolute path of the cache volume; see `paths`."""


class RunConfig(ContractModel):
    """Everything one attempt needs; the same file runs in a pod and on a laptop."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    run: RunIdentity
    attempt: int = Field(ge=1)
    model_dir: str
    """Absolute path of the prepared model folder (config, tokenizer, safetensors)."""
    model_origin: ModelOrigin | None = None
    """None: the model came from a volume."""
    tokens_dir: str
    """Absolute path of the token cache that the preparation wrote."""
    output_dir: str
    """Absolute path of this run's own folder on the output volume; see `paths`."""
    method: Method
    batch: BatchConfig
    epochs: float = Field(gt=0)
    """Passes over the training rows; a fraction ends inside an epoch."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, whatever `epochs` says."""
    optimizer: OptimizerConfig
    schedule: Schedule
    stability: StabilityConfig = StabilityConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    precision: Precision
    parallelism: Parallelism
    activation_checkpointing: ActivationCheckpointing
    checkpoint: CheckpointConfig
    merge_adapter: bool
    seed: int = Field(ge=0)
    progress_port: int = Field(ge=0, le=65535)
    """Port on which rank 0 serves `/progress` and `/metrics`; 0 picks a free one (see `paths.PROGRESS_PORT_FILE`)."""
    grace_seconds: int = Field(ge=5)
    """Time between SIGTERM and SIGKILL; a preempted run must have saved by then."""
    hang_timeout_seconds: int = Field(default=600, ge=1)
    """A rank that has not moved for so long is hung, unless what it does takes longer; see `patience`."""
    tracking: TrackingConfig = TrackingConfig()

"""What is trained, for how long and how fast."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule, Text


class MethodType(StrEnum):
    """What is trained."""

    LORA = "LoRA"
    FULL = "Full"


class Lora(ResourceModel):
    """Low-rank adapters on linear projections."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Width of the adapters: more can learn more, and costs more memory."""
    alpha: float = Field(default=32, gt=0, le=100000)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    targets: Annotated[
        tuple[Annotated[str, Text(r"^[A-Za-z0-9_.-]+$", 64, "a module's name, such as q_proj")], ...],
        Field(min_length=1, max_length=32),
    ] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Module names, or the single word `all-linear`."""


class Method(ResourceModel):
    """Adapters (LoRA) or every weight (Full)."""

    type: MethodType = MethodType.LORA
    lora: Lora | None = None
    """Settings of LoRA; default: rank 8, alpha 32 on all projections."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'LoRA' || !has(self.lora)",
            "the lora block goes with type LoRA; remove it for type {self.type}",
            ".lora",
        ),
    )

    @model_validator(mode="after")
    def _block_fits(self) -> Self:
        if self.type is not MethodType.LORA and self.lora is not None:
            raise ValueError(f"the lora block goes with type LoRA; remove it for type {self.type}")
        return self

    @property
    def lora_settings(self) -> Lora:
        """The lora block with its defaults; only for type LoRA."""
        assert self.type is MethodType.LORA
        return self.lora or Lora()


class GlobalBatch(ResourceModel):
    """What the optimizer sees in one step, whatever the number of GPUs."""

    samples: int = Field(default=16, ge=1, le=65536)
    """Sequences per optimizer step over all GPUs: conversations, or packed sequences with packing."""


class ScheduleType(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Schedule(ResourceModel):
    """The learning rate over the run."""

    type: ScheduleType = ScheduleType.COSINE
    """How the rate falls after the warm-up."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps that the rate takes to rise to its peak."""
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the rate ends, as a share of the peak; not for Constant."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'Constant' || self.finalRatio == 0.0",
            "a Constant schedule has no finalRatio, and it is {self.finalRatio}; remove it, or use Linear",
            ".finalRatio",
        ),
    )

    @model_validator(mode="after")
    def _ratio_fits(self) -> Self:
        if self.type is ScheduleType.CONSTANT and self.final_ratio:
            raise ValueError("a Constant schedule has no finalRatio; remove it, or use Linear")
        return self


class Optimizer(ResourceModel):
    """AdamW's knobs besides the rate."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of the gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    """Added to the root of the latter, against division by zero."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled: weights shrink by rate x this in a step."""


class Precision(StrEnum):
    """Number format of the matrix products; master weights are always fp32."""

    BF16 = "Bf16"
    FP16 = "Fp16"
    FP32 = "Fp32"


class Training(ResourceModel):
    """How long and how fast."""

    epochs: float = Field(default=3, gt=0, le=10000)
    """Passes over the training rows; a fraction ends inside one."""
    max_steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Stop after so many optimizer steps, whatever epochs says."""
    global_batch: GlobalBatch = GlobalBatch()
    learning_rate: float = Field(default=2e-4, gt=0, le=10)
    """At its peak, after the warm-up. 2e-4 suits LoRA; take a tenth or less for type Full."""
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    max_grad_norm: float = Field(default=1.0, ge=0, le=1_000_000)
    """Clip the global gradient norm to this; 0: never clip."""
    precision: Precision = Precision.BF16
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    """Decides the order of rows, the validation split, dropout and the adapters' first weights."""


class Checkpoint(ResourceModel):
    """Saved states to resume from."""

    every_steps: int = Field(default=500, ge=1, le=1_000_000)
    """Optimizer steps between two saves."""
    keep: int = Field(default=3, ge=1, le=100)
    """The newest so many complete ones stay."""
    asynchronous: bool | None = None
    """Train on while a checkpoint is written, which takes host memory for a snapshot; default: where that fits into
    resources.memoryPerGpu."""


class Output(ResourceModel):
    """What a finished run leaves behind."""

    merge_adapter: bool = False
    """Write the base model with the adapter merged in besides the adapter."""

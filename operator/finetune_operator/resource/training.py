"""What is trained, for how long and how fast."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule, Text
from finetune_operator.resource.batch import GlobalBatch
from finetune_operator.resource.schedules import Schedule


class MethodType(StrEnum):
    """What is trained."""

    LORA = "LoRA"
    QLORA = "QLoRA"
    FULL = "Full"


ModuleName = Annotated[
    str, Text(r"^[A-Za-z0-9_.-]+$", 64, "a module's name or its last parts, such as q_proj or layers.0.mlp.up_proj")
]


class Lora(ResourceModel):
    """Low-rank adapters on linear projections, in PEFT's words."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Width of the adapters: more can learn more, and costs more memory."""
    alpha: float = Field(default=32, gt=0, le=100000)
    """The update is scaled by alpha / rank, with useRslora by alpha / sqrt(rank)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    targets: Annotated[tuple[ModuleName, ...], Field(max_length=32)] = ("all-linear",)
    """Names of linear modules, or the single word `all-linear`: all but the output head. Of a mixture of experts that
    is attention alone; its experts are reached by targetParameters."""
    target_parameters: Annotated[tuple[ModuleName, ...], Field(max_length=8)] = ()
    """Parameters of all experts of a mixture, such as experts.gate_up_proj and experts.down_proj: every expert gets an
    adapter of its own. Without dropout and useDora."""
    rank_pattern: Annotated[dict[ModuleName, Annotated[int, Field(ge=1, le=1024)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Other ranks for some modules, by name or its last parts."""
    alpha_pattern: Annotated[dict[ModuleName, Annotated[float, Field(gt=0, le=100000)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Other alphas for some modules, by name or its last parts."""
    modules_to_save: Annotated[tuple[ModuleName, ...], Field(max_length=8)] = ()
    """Modules that are trained whole and saved with the adapter, by the ends of their names: norm means every norm.
    Not embed_tokens or lm_head where the two are one weight (Qwen3-0.6B, 1.7B, 4B)."""
    use_rslora: bool = False
    """Rank-stabilised scaling, alpha / sqrt(rank): for ranks of 32 and more."""
    use_dora: bool = False
    """Train the length of each row of a weight beside its direction (DoRA): often better at low ranks, slower."""
    loraplus_lr_ratio: float = Field(default=1, ge=1, le=1000)
    """Learning rate of an adapter's B in units of its A's (LoRA+): 16 is usual; take a lower learningRate then."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.targets.size() > 0 || (has(self.targetParameters) && self.targetParameters.size() > 0)",
            "targets and targetParameters are both empty: there is nothing to adapt; name a module",
            ".targets",
        ),
        Rule(
            "!('all-linear' in self.targets) || self.targets.size() == 1",
            "all-linear stands alone: it means all linear modules already; remove the others, or it",
            ".targets",
        ),
        Rule(
            "!has(self.targetParameters) || self.targetParameters.size() == 0"
            " || (self.dropout == 0.0 && !self.useDora)",
            "targetParameters go with neither dropout nor useDora: adapters of experts have no such parts; remove one",
            ".targetParameters",
        ),
    )

    @model_validator(mode="after")
    def _targets_fit(self) -> Self:
        if not self.targets and not self.target_parameters:
            raise ValueError("targets and targetParameters are both empty: there is nothing to adapt; name a module")
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise ValueError("all-linear stands alone: it means all linear modules already; remove the others, or it")
        if self.target_parameters and (self.dropout or self.use_dora):
            raise ValueError(
                "targetParameters go with neither dropout nor useDora: adapters of experts have no such parts; "
                "remove one"
            )
        return self


class Quantization(ResourceModel):
    """How QLoRA stores the frozen projections: 4-bit normal float (NF4)."""

    block_size: Literal[64, 128, 256, 512] = 64
    """Weights that share a scale: fewer are more exact, and take more memory."""
    double_quantization: bool = True
    """Store the scales in 8 bits as well: saves 0.4 bits per weight."""


class Method(ResourceModel):
    """Adapters (LoRA), the same on a base in four bits (QLoRA), or every weight (Full)."""

    type: MethodType = MethodType.LORA
    lora: Lora | None = None
    """Settings of LoRA and QLoRA; default: rank 8, alpha 32 on all linear modules."""
    quantization: Quantization | None = None
    """Settings of QLoRA."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'Full' || !has(self.lora)",
            "the lora block goes with types LoRA and QLoRA; remove it for type {self.type}",
            ".lora",
        ),
        Rule(
            "self.type == 'QLoRA' || !has(self.quantization)",
            "the quantization block goes with type QLoRA; remove it for type {self.type}",
            ".quantization",
        ),
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.type is MethodType.FULL and self.lora is not None:
            raise ValueError(f"the lora block goes with types LoRA and QLoRA; remove it for type {self.type}")
        if self.type is not MethodType.QLORA and self.quantization is not None:
            raise ValueError(f"the quantization block goes with type QLoRA; remove it for type {self.type}")
        return self

    @property
    def lora_settings(self) -> Lora:
        """The lora block with its defaults; only for types LoRA and QLoRA."""
        assert self.type is not MethodType.FULL
        return self.lora or Lora()

    @property
    def quantization_settings(self) -> Quantization:
        """The quantization block with its defaults; only for type QLoRA."""
        assert self.type is MethodType.QLORA
        return self.quantization or Quantization()


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

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxSteps) || !has(self.schedule.warmupSteps) || self.schedule.warmupSteps < self.maxSteps",
            "a warm-up of {self.schedule.warmupSteps} steps does not end within maxSteps; shorten it, or raise that",
            ".schedule.warmupSteps",
        ),
    )

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        steps = self.schedule.warmup_steps
        if self.max_steps is not None and steps is not None and steps >= self.max_steps:
            raise ValueError(
                f"schedule.warmupSteps: a warm-up of {steps} steps does not end within maxSteps {self.max_steps}; "
                "shorten it, or raise that"
            )
        return self


class Checkpoint(ResourceModel):
    """Saved states to resume from."""

    every_steps: int = Field(default=500, ge=1, le=1_000_000)
    """Optimizer steps between two saves."""
    keep: int = Field(default=3, ge=1, le=100)
    """The newest so many complete ones stay."""
    asynchronous: bool | None = None
    """Train on while a checkpoint is written, which takes host memory for a snapshot; default: where that fits into
    resources.memoryPerGpu."""

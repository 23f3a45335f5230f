"""How the learning rate moves over a run."""

from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule

DEFAULT_WARMUP_RATIO = 0.03
DEFAULT_DECAY_RATIO = 0.1
"""Enough for most of what a fall brings: Hu et al. 2024, arXiv 2404.06395, section 4."""


class ScheduleType(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"


class DecayShape(StrEnum):
    """How the rate falls at the end of WarmupStableDecay."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    SQUARE_ROOT = "SquareRoot"


_ONE_WARMUP = "warmupRatio and warmupSteps both say how long the warm-up takes; keep one"
_DECAY_ALONE = "decayRatio and decayShape go with type WarmupStableDecay; remove them for type"
_PARTS_FIT = "the warm-up and decayRatio take more than the whole run together; shorten one"
_WARMUP_SHARE = f"(has(self.warmupRatio) ? self.warmupRatio : has(self.warmupSteps) ? 0.0 : {DEFAULT_WARMUP_RATIO})"
_DECAY_SHARE = f"(has(self.decayRatio) ? self.decayRatio : {DEFAULT_DECAY_RATIO})"


class Schedule(ResourceModel):
    """The learning rate over the run."""

    type: ScheduleType = ScheduleType.COSINE
    """How the rate falls after the warm-up: WarmupStableDecay keeps its peak, and falls over the last steps."""
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Share of all steps that the rate takes to rise to its peak; default: 0.03, unless warmupSteps is there."""
    warmup_steps: int | None = Field(default=None, ge=0, le=1_000_000)
    """The same as a number of steps, fewer than the run has."""
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the rate ends, as a share of the peak; not for Constant."""
    decay_ratio: float | None = Field(default=None, gt=0, le=1)
    """With type WarmupStableDecay: share of all steps that the fall takes; default: 0.1."""
    decay_shape: DecayShape | None = None
    """With type WarmupStableDecay: how the rate falls; SquareRoot, the default, falls fast at first."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'Constant' || self.finalRatio == 0.0",
            "a Constant schedule has no finalRatio, and it is {self.finalRatio}; remove it, or use Linear",
            ".finalRatio",
        ),
        Rule("!has(self.warmupRatio) || !has(self.warmupSteps)", _ONE_WARMUP, ".warmupSteps"),
        Rule(
            "self.type == 'WarmupStableDecay' || (!has(self.decayRatio) && !has(self.decayShape))",
            f"{_DECAY_ALONE} {{self.type}}",
        ),
        Rule(f"self.type != 'WarmupStableDecay' || {_WARMUP_SHARE} + {_DECAY_SHARE} <= 1.0", _PARTS_FIT, ".decayRatio"),
    )

    @property
    def warmup_share(self) -> float:
        """Share of all steps that the warm-up takes, unless `warmup_steps` says it."""
        if self.warmup_steps is not None:
            return 0.0
        return DEFAULT_WARMUP_RATIO if self.warmup_ratio is None else self.warmup_ratio

    @property
    def decay_share(self) -> float:
        """Share of all steps that the fall of WarmupStableDecay takes."""
        return self.decay_ratio or DEFAULT_DECAY_RATIO

    @model_validator(mode="after")
    def _ratio_fits(self) -> Self:
        if self.type is ScheduleType.CONSTANT and self.final_ratio:
            raise ValueError("a Constant schedule has no finalRatio; remove it, or use Linear")
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError(_ONE_WARMUP)
        return self

    @model_validator(mode="after")
    def _decay_fits(self) -> Self:
        if self.type is ScheduleType.WARMUP_STABLE_DECAY:
            if self.warmup_share + self.decay_share > 1:
                raise ValueError(_PARTS_FIT)
        elif self.decay_ratio is not None or self.decay_shape is not None:
            raise ValueError(f"{_DECAY_ALONE} {self.type}")
        return self

"""How the learning rate moves over a run: a linear warm-up, then one of four shapes."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.base import ContractModel


class _WarmedUp(ContractModel):
    warmup_ratio: float = Field(ge=0, lt=1)
    """Share of all steps."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """So many steps instead, whatever `warmup_ratio` says."""


class CosineSchedule(_WarmedUp):
    """Linear warm-up, then half a cosine down to `final_ratio` of the peak."""

    type: Literal["Cosine"] = "Cosine"
    final_ratio: float = Field(default=0.0, ge=0, le=1)


class LinearSchedule(_WarmedUp):
    """Linear warm-up, then a straight line down to `final_ratio` of the peak."""

    type: Literal["Linear"] = "Linear"
    final_ratio: float = Field(default=0.0, ge=0, le=1)


class ConstantSchedule(_WarmedUp):
    """Linear warm-up, then the peak rate."""

    type: Literal["Constant"] = "Constant"


class DecayShape(StrEnum):
    """How a rate falls at the end of WarmupStableDecay."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    SQUARE_ROOT = "SquareRoot"
    """1 minus the root of the share of the decay that is done: falls fast at first (Hagele et al. 2024,
    arXiv 2405.18392, section 4)."""


class WarmupStableDecaySchedule(_WarmedUp):
    """Linear warm-up, the peak rate, and a fall over the last steps (Hu et al. 2024, arXiv 2404.06395, section 4)."""

    type: Literal["WarmupStableDecay"] = "WarmupStableDecay"
    decay_ratio: float = Field(gt=0, le=1)
    """Share of all steps that the fall takes; at most what the warm-up leaves."""
    decay_shape: DecayShape
    final_ratio: float = Field(default=0.0, ge=0, le=1)


Schedule = Annotated[
    CosineSchedule | LinearSchedule | ConstantSchedule | WarmupStableDecaySchedule, Field(discriminator="type")
]

"""What is done about steps that are no numbers, and about a loss that rises for good."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from finetune_contract.base import ContractModel


class NonFinitePolicy(ContractModel):
    """Steps whose loss or gradient norm is not finite: skipped, then rolled back, then the end of the run."""

    skip_steps: int = Field(default=3, ge=0)
    """So many in a row change nothing and are passed over."""
    rollbacks: int = Field(default=2, ge=0)
    """How often, in all, the run goes back to the last good checkpoint when one more step is not finite. The data
    between are not seen again."""
    rate_factor: float = Field(default=0.5, gt=0, le=1)
    """What a rollback leaves of the learning rate."""


class DivergenceRemedy(StrEnum):
    """What is changed when the loss diverges; each goes back to the last good checkpoint as well."""

    LEARNING_RATE = "LearningRate"
    """The rate is multiplied by `rate_factor`, and rises from zero again."""
    GRADIENT_CLIPPING = "GradientClipping"
    """The threshold of the gradient norm is halved."""


class DivergencePolicy(ContractModel):
    """When a loss counts as diverged, and what is done about it.

    It has when three quarters of the last `window_steps` losses lie above `factor` times, and at least half a nat
    above, what three quarters of the best window's losses lay below.
    """

    window_steps: int = Field(default=50, ge=8)
    factor: float = Field(default=1.5, gt=1)
    remedies: tuple[DivergenceRemedy, ...] | None = (
        DivergenceRemedy.LEARNING_RATE,
        DivergenceRemedy.GRADIENT_CLIPPING,
    )
    """One for each time the loss diverges, in this order; the time after the last one ends the run. None: it is
    reported, and training goes on."""
    rate_factor: float = Field(default=0.5, gt=0, le=1)


class StabilityConfig(ContractModel):
    """How a run is kept from going to waste."""

    non_finite: NonFinitePolicy = NonFinitePolicy()
    divergence: DivergencePolicy | None = DivergencePolicy()
    """None: nobody looks at the trend of the loss."""


class EvaluationConfig(ContractModel):
    """What is decided by the loss on held-out rows."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two looks; None: as between two checkpoints."""
    patience: int | None = Field(default=None, ge=1)
    """The run ends after so many looks in a row without a gain; None: never."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much a loss must be lower than the best one to be a gain."""
    keep_best: bool = False
    """The checkpoint with the lowest validation loss stays besides the newest ones."""
    load_best: bool = False
    """What the run leaves behind is made from that checkpoint instead of the last one."""

    @model_validator(mode="after")
    def _best_is_there(self) -> Self:
        if self.load_best and not self.keep_best:
            raise ValueError("load_best: true needs keep_best: true, or the checkpoint would be gone by then")
        return self

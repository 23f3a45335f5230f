"""How a run is kept from going to waste: steps that are no numbers, and a loss that rises for good."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule


class NonFinite(ResourceModel):
    """Steps whose loss or gradient norm is not finite: passed over, then the run goes back, then it ends."""

    skip_steps: int = Field(default=3, ge=0, le=1000)
    """So many in a row change nothing and are passed over."""
    rollbacks: int = Field(default=2, ge=0, le=100)
    """How often, in all, the run goes back to its last good checkpoint when one more is not finite; the data since
    then are not seen again. After that it ends."""
    rate_factor: float = Field(default=0.5, gt=0, le=1)
    """What going back leaves of the learning rate."""


class DivergenceAction(StrEnum):
    """What is done when the loss diverges."""

    TREAT = "Treat"
    WARN = "Warn"
    FAIL = "Fail"
    IGNORE = "Ignore"


class Remedy(StrEnum):
    """What is changed when the loss diverges."""

    LEARNING_RATE = "LearningRate"
    GRADIENT_CLIPPING = "GradientClipping"


_NOT_TREATED = "remedies and rateFactor go with policy Treat; remove them for policy"
_NOT_WATCHED = "windowSteps and factor say when the loss has diverged, and policy Ignore never looks; remove them"


class Divergence(ResourceModel):
    """When the loss counts as diverged, and what is done about it.

    It has when three quarters of the last windowSteps losses lie above factor times, and at least 0.5 above, what three
    quarters of the best window's losses lay below.
    """

    policy: DivergenceAction = DivergenceAction.TREAT
    """Treat: go back to the last good checkpoint, and change what remedies says; Warn: train on, and tell of it; Fail:
    end the run at once; Ignore: nobody looks at the trend of the loss."""
    window_steps: int | None = Field(default=None, ge=8, le=10_000)
    """Steps that are judged together; default: 50."""
    factor: float | None = Field(default=None, gt=1, le=100)
    """How much higher than the best they must lie; default: 1.5."""
    remedies: Annotated[tuple[Remedy, ...], Field(min_length=1, max_length=8)] | None = None
    """With policy Treat: one for each time the loss diverges, in this order; the time after the last one ends the run.
    LearningRate lowers the rate and lets it rise from zero again, GradientClipping halves maxGradNorm; default: the
    one, then the other."""
    rate_factor: float | None = Field(default=None, gt=0, le=1)
    """With policy Treat: what LearningRate leaves of the rate; default: 0.5."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.policy == 'Treat' || (!has(self.remedies) && !has(self.rateFactor))",
            f"{_NOT_TREATED} {{self.policy}}",
        ),
        Rule("self.policy != 'Ignore' || (!has(self.windowSteps) && !has(self.factor))", _NOT_WATCHED),
    )

    @model_validator(mode="after")
    def _settings_have_use(self) -> Self:
        if self.policy is not DivergenceAction.TREAT and (self.remedies is not None or self.rate_factor is not None):
            raise ValueError(f"{_NOT_TREATED} {self.policy}")
        watches = self.policy is not DivergenceAction.IGNORE
        if not watches and (self.window_steps is not None or self.factor is not None):
            raise ValueError(_NOT_WATCHED)
        return self


class Stability(ResourceModel):
    """How a run is kept from going to waste."""

    non_finite: NonFinite = NonFinite()
    divergence: Divergence = Divergence()

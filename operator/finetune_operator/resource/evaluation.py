"""What is decided by the loss on held-out rows."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule

_DELTA_HAS_USE = "minDelta says what a gain is, and nothing depends on one: set patience, keepBest or loadBest as well"


class Evaluation(ResourceModel):
    """What is decided by the loss on the rows that dataset.validation holds out."""

    every_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    """Optimizer steps between two looks at them; default: checkpoint.everySteps. The last step is followed by one."""
    patience: int | None = Field(default=None, ge=1, le=10_000)
    """The run ends early after so many looks in a row without a gain; default: never."""
    min_delta: float = Field(default=0.0, ge=0, le=100)
    """By how much the loss must be lower than the lowest so far to be a gain."""
    keep_best: bool = False
    """The checkpoint with the lowest loss is taken at once, and stays besides the newest checkpoint.keep."""
    load_best: bool = False
    """What the run leaves behind is made from that checkpoint instead of the last one; keepBest is then true."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minDelta == 0.0 || has(self.patience) || self.keepBest || self.loadBest", _DELTA_HAS_USE, ".minDelta"
        ),
    )

    @property
    def is_asked_for(self) -> bool:
        """Whether anything here needs rows that are held out."""
        return self != Evaluation()

    @model_validator(mode="after")
    def _delta_has_use(self) -> Self:
        if self.min_delta and self.patience is None and not (self.keep_best or self.load_best):
            raise ValueError(_DELTA_HAS_USE)
        return self

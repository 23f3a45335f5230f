"""The global batch, and how it grows."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule


class BatchRamp(ResourceModel):
    """A global batch that begins small and doubles until it is whole.

    Small batches cost little progress while the gradient is large beside its noise, which is early in a run (McCandlish
    et al. 2018, arXiv 1812.06162).
    """

    from_samples: int = Field(ge=1, le=32768)
    """Sequences per optimizer step at first: fewer than samples, a divisor of it, and a multiple of the number of
    GPUs."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of all passes over the training rows after which the batch is whole; each size has an equal part of it."""
    scale_rate: bool = True
    """A smaller batch has a lower rate as well, by the root of its share of the whole one (Malladi et al. 2022, arXiv
    2205.10287)."""


class GlobalBatch(ResourceModel):
    """What the optimizer sees in one step, whatever the number of GPUs."""

    samples: int = Field(default=16, ge=1, le=65536)
    """Sequences per optimizer step over all GPUs: conversations, or packed sequences with packing."""
    ramp: BatchRamp | None = None
    """A batch that grows to samples; default: it is whole from the first step on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.ramp) || (self.ramp.fromSamples < self.samples && self.samples % self.ramp.fromSamples == 0)",
            "{self.ramp.fromSamples} samples cannot grow to {self.samples}; use a smaller divisor of that",
            ".ramp.fromSamples",
        ),
    )

    @property
    def first_samples(self) -> int:
        """Sequences of the first optimizer step."""
        return self.samples if self.ramp is None else self.ramp.from_samples

    def nearest_first(self, multiple_of: int) -> str | None:
        """The nearest sizes that a ramp could begin with instead, in words; None: there are none."""
        legal = [size for size in range(multiple_of, self.samples, multiple_of) if self.samples % size == 0]
        below = [size for size in legal if size < self.first_samples][-1:]
        above = [size for size in legal if size > self.first_samples][:1]
        return " or ".join(map(str, below + above)) or None

    @model_validator(mode="after")
    def _ramp_ends(self) -> Self:
        first = self.first_samples
        if self.ramp is not None and (first >= self.samples or self.samples % first):
            raise ValueError(
                f"ramp.fromSamples: {first} samples cannot grow to {self.samples}; use a smaller divisor of that"
            )
        return self

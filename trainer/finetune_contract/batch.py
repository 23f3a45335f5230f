"""The global batch: how it is cut over ranks, how it grows, and which sequences every optimizer step takes.

Operator and trainer both count steps, so the counting stands here once.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from finetune_contract.base import ContractModel


class BatchRamp(ContractModel):
    """A global batch that begins small and doubles until it is whole.

    Small batches cost little progress while the gradient is large beside its noise, which is early in a run.
    Source: McCandlish et al. 2018, arXiv 1812.06162.
    """

    from_sequences: int = Field(ge=1)
    """Sequences per optimizer step at first; divides the global batch."""
    share: float = Field(gt=0, le=1)
    """Share of all passes over the training sequences after which the batch is whole."""
    scale_rate: bool
    """Whether a smaller batch also has a lower rate, by the root of its share of the whole one.
    Source: Malladi et al. 2022, arXiv 2205.10287."""


class BatchConfig(ContractModel):
    """How the global batch is cut: global = micro x accumulation x world, always exactly."""

    global_sequences: int = Field(ge=1)
    """Sequences (packed ones, with packing) per optimizer step, over all ranks."""
    micro_sequences: int = Field(ge=1)
    """Sequences per rank in one forward pass."""
    accumulation_steps: int = Field(ge=1)
    world_size: int = Field(ge=1)
    ramp: BatchRamp | None = None
    """None: the batch is whole from the first step on."""

    @model_validator(mode="after")
    def _product_is_whole(self) -> Self:
        product = self.micro_sequences * self.accumulation_steps * self.world_size
        if product != self.global_sequences:
            raise ValueError(
                f"global_sequences: {self.global_sequences} is not micro_sequences {self.micro_sequences} x "
                f"accumulation_steps {self.accumulation_steps} x world_size {self.world_size} = {product}"
            )
        return self

    @model_validator(mode="after")
    def _ramp_is_whole(self) -> Self:
        if self.ramp is None:
            return self
        first, pass_size = self.ramp.from_sequences, self.micro_sequences * self.world_size
        if self.global_sequences % first or first % pass_size:
            raise ValueError(
                f"ramp.from_sequences: {first} must divide global_sequences {self.global_sequences}, and be a multiple "
                f"of micro_sequences {self.micro_sequences} x world_size {self.world_size} = {pass_size}"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """The global batches of a run in their order: doubled until the whole one, which is the last."""
        if self.ramp is None:
            return (self.global_sequences,)
        doublings = (self.ramp.from_sequences << power for power in range(32))
        return (*(size for size in doublings if size < self.global_sequences), self.global_sequences)


@dataclass(frozen=True, slots=True)
class StepSlice:
    """Where in the run's passes over the training sequences an optimizer step is."""

    epoch: int
    """Counted from 0."""
    begin: int
    """First sequence in that epoch's order."""
    global_sequences: int
    """The batch of this step; fewer sequences are left for the last step of an epoch."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Steps of one size within an epoch."""

    first_step: int
    steps: int
    epoch: int
    begin: int
    size: int


class Steps:
    """Which sequences every optimizer step of a run takes; a function of the arguments, not of how the batch is cut.

    An epoch's last step takes what is left of it: no sequence is dropped or seen twice. Every size of a growing batch
    holds for an equal part of the ramp's share, counted in sequences. A fraction of an epoch is rounded up to a whole
    step.
    """

    def __init__(self, sequences: int, batch: BatchConfig, *, epochs: float, max_steps: int | None) -> None:
        self._sequences = sequences
        self._size = batch.global_sequences
        self._growing = list(_growing(sequences, batch, epochs))
        self._firsts = [stretch.first_step for stretch in self._growing]
        grown = self._growing[-1] if self._growing else None
        self._whole_from = 1 if grown is None else grown.first_step + grown.steps
        """The first step of the epochs in which the batch is whole throughout."""
        self._whole_epoch = 0 if grown is None else grown.epoch + 1
        self.total = self._total(epochs) if max_steps is None else min(self._total(epochs), max_steps)

    @property
    def whole_from(self) -> int:
        """The first step whose batch is the whole global batch."""
        partial = [each.first_step + each.steps for each in self._growing if each.size < self._size]
        return max(partial, default=1)

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Every size that the batch has in this run, smallest first, and the first step that has it."""
        firsts = {self._size: self.whole_from}
        for stretch in reversed(self._growing):
            firsts[stretch.size] = stretch.first_step
        return tuple((size, first) for size, first in sorted(firsts.items()) if first <= self.total)

    def __getitem__(self, number: int) -> StepSlice:
        """Step `number`, counted from 1."""
        if number >= self._whole_from:
            per_epoch = -(-self._sequences // self._size)
            epoch, index = divmod(number - self._whole_from, per_epoch)
            return StepSlice(self._whole_epoch + epoch, index * self._size, self._size)
        stretch = self._growing[bisect_right(self._firsts, number) - 1]
        return StepSlice(stretch.epoch, stretch.begin + (number - stretch.first_step) * stretch.size, stretch.size)

    def _total(self, epochs: float) -> int:
        whole, fraction = divmod(epochs, 1)
        before = self._steps_before(int(whole))
        in_next = self._steps_before(int(whole) + 1) - before
        # six digits: 0.1 x 30 is 3.0000000000000004 in floating point, and must not become four steps
        return before + math.ceil(round(fraction * in_next, 6))

    def _steps_before(self, epoch: int) -> int:
        growing = sum(stretch.steps for stretch in self._growing if stretch.epoch < epoch)
        return growing + max(0, epoch - self._whole_epoch) * -(-self._sequences // self._size)


def _growing(sequences: int, batch: BatchConfig, epochs: float) -> Iterator[_Stretch]:
    """The stretches of all epochs that begin with a batch which is not whole yet."""
    if batch.ramp is None or len(batch.sizes) == 1:
        return
    ends = [
        batch.ramp.share * epochs * sequences * number / (len(batch.sizes) - 1) for number in range(1, len(batch.sizes))
    ]
    step = 1
    for epoch in range(math.ceil(epochs)):
        if epoch * sequences >= ends[-1]:
            return
        begin = 0
        while begin < sequences:
            stage = bisect_right(ends, epoch * sequences + begin)
            until = min(sequences, ends[stage] - epoch * sequences) if stage < len(ends) else sequences
            size = batch.sizes[stage]
            steps = math.ceil((until - begin) / size)
            yield _Stretch(step, steps, epoch, begin, size)
            step, begin = step + steps, begin + steps * size

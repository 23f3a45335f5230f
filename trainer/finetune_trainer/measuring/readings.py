"""What every rank measures for itself between two samples, and what all of it comes to."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from finetune_contract import Indicators
from finetune_trainer.measuring.flops import Flops, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One rank's part, since the last sample: floats, so that ranks exchange it as a row of numbers. nan: not known."""

    data_wait_seconds: float = 0.0
    documents: float = 0.0
    squared_lengths: float = 0.0
    """Sum of n^2 over the documents of n tokens."""
    peak_memory_bytes: float = math.nan
    """Since the process began."""
    gpu_utilisation: float = math.nan
    communication_exposed: float = math.nan
    """Share of a step, at the last step in which it was measured."""
    communication_total: float = math.nan

    def row(self) -> list[float]:
        """As ranks exchange it; `Reading.of` reads it."""
        return list(astuple(self))

    @classmethod
    def of(cls, row: list[float]) -> "Reading":
        """The reading that `row` was made of."""
        return cls(**dict(zip(cls.__dataclass_fields__, row, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the ranks know together of the steps since the last sample."""

    seconds: float
    """Of these steps, the wait for their data included."""
    tokens: int
    supervised_tokens: int
    ranks: tuple[Reading, ...]

    @property
    def peak_memory_bytes(self) -> int:
        """Of the fullest rank."""
        return int(max(each.peak_memory_bytes for each in self.ranks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the counted operations are held against."""

    flops: Flops
    peak_flops: float | None
    """Of one device; None: not known."""


def indicators_of(
    sample: Sample,
    machine: Machine,
    *,
    recent: float | None,
    since_start: float | None,
    noise_scale_sequences: float | None,
    straggler: float | None = None,
) -> Indicators:
    """The indicators of a sample, of the loss as `loss_trend` gives it, of the gradients as `noise_scale` does, and of
    the slowest rank as `straggler` does."""
    ranks, seconds = sample.ranks, sample.seconds
    work = Work(
        tokens=sample.tokens,
        supervised_tokens=sample.supervised_tokens,
        squared_lengths=round(math.fsum(each.squared_lengths for each in ranks)),
    )
    available = None if machine.peak_flops is None else machine.peak_flops * len(ranks) * seconds
    memories = _known(each.peak_memory_bytes for each in ranks)
    return Indicators(
        samples_per_second=math.fsum(each.documents for each in ranks) / seconds,
        mfu_ratio=None if available is None else machine.flops.of_model(work) / available,
        hfu_ratio=None if available is None else machine.flops.of_hardware(work) / available,
        data_wait_ratio=min(1.0, max(each.data_wait_seconds for each in ranks) / seconds),
        gpu_utilisation_ratio=min(_known(each.gpu_utilisation for each in ranks), default=None),
        memory_imbalance_ratio=max(memories) * len(memories) / math.fsum(memories) if memories else None,
        communication_ratio=_mean(_known(each.communication_exposed for each in ranks)),
        communication_total_ratio=_mean(_known(each.communication_total for each in ranks)),
        straggler_ratio=straggler,
        loss_trend_ratio=recent,
        loss_since_start_ratio=since_start,
        gradient_noise_scale_sequences=noise_scale_sequences,
    )


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None

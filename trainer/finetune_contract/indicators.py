"""What tells a healthy run from one that wastes its GPUs or does not learn: measured values, alarms, trackers."""

from enum import StrEnum

from pydantic import Field

from finetune_contract.base import ContractModel

MAX_ALARMS = 8
MAX_TRACKERS = 8


class Indicators(ContractModel):
    """How well the hardware is used and the loss behaves, over the steps since the last sample.

    A ratio is a share from 0 to 1 unless it says otherwise. None: not measured, or not measurable here.
    """

    samples_per_second: float | None = None
    """Documents of all ranks (conversations, however they are packed) per second."""
    mfu_ratio: float | None = None
    """Share of the devices' bf16 peak that the model's own operations need (model FLOPs utilisation)."""
    hfu_ratio: float | None = None
    """The same with the operations of activation checkpointing's recomputation counted too."""
    data_wait_ratio: float | None = None
    """Share of the time in which the slowest rank waited for its next batch."""
    gpu_utilisation_ratio: float | None = None
    """Share of the time in which the least busy GPU ran a kernel, as NVML counts it."""
    memory_imbalance_ratio: float | None = None
    """Peak memory of the fullest rank / mean over the ranks: 1 is balanced."""
    communication_ratio: float | None = None
    """Share of a step in which a rank only communicates: what overlaps with computation is not in it. Mean of ranks."""
    communication_total_ratio: float | None = None
    """Share of a step in which any communication is under way, overlapped or not. Mean of ranks."""
    straggler_ratio: float | None = None
    """Own step time of the slowest rank / median of the others, the least of the last samples; 1 while they disagree
    about which rank that is."""
    loss_trend_ratio: float | None = None
    """Relative change of the loss from the older to the newer half of the last steps; 0 where noise explains it."""
    loss_since_start_ratio: float | None = None
    """Relative change of the loss since the run's first steps; known in the attempt that began at step 0."""
    gradient_noise_scale_sequences: float | None = None
    """Global batch at which the noise in a step's gradient is as large as the gradient; see noise_scale.py. Known after
    80 steps of an attempt or so, while the noise does not hide the gradient."""


class Indicator(StrEnum):
    """What an alarm is about."""

    GPU_UTILISATION = "GpuUtilisation"
    MEMORY_BALANCE = "MemoryBalance"
    COMMUNICATION = "Communication"
    STRAGGLER = "Straggler"
    LOSS = "Loss"


class Alarm(ContractModel):
    """An indicator beyond its limit, and what to do about it."""

    indicator: Indicator
    value: float
    """When it was last measured."""
    threshold: float
    """Where the alarm begins; it ends a little on the good side of it."""
    remedy: str = Field(max_length=400)
    """In the resource's own field names."""
    since: float
    """Unix seconds by the trainer's clock: when the indicator went beyond its limit."""


class TrackerState(StrEnum):
    """How an experiment tracker does; none of these stops or slows training."""

    CONNECTING = "Connecting"
    LIVE = "Live"
    STALLED = "Stalled"
    """It does not answer at present; what it misses is counted."""
    DOWN = "Down"
    """It could not be started or failed too often, and is left alone for the rest of the attempt."""


class TrackerReport(ContractModel):
    """What became of one tracker."""

    state: TrackerState
    dropped: int = Field(default=0, ge=0)
    """Points that never reached it."""
    url: str | None = Field(default=None, max_length=300)
    """Where a person sees the run, if the tracker said so."""
    message: str | None = Field(default=None, max_length=300)
    """Why it is Stalled or Down."""

"""Key indicators with their limits, and what to do when one is exceeded.

Utilisation above 80 %, communication below 10 %, memory spread evenly and a loss that falls are the limits of the guide
"Self-LLM: fine-tuning Qwen3 on several GPUs"; so are the remedies, put into this resource's fields. Where it gives no
number, the number is ours. An alarm ends a little on the good side of where it begins, so that jitter is no news.
"""

from dataclasses import dataclass

from finetune_contract import Alarm, DeepSpeedParallelism, FsdpParallelism, Indicator, Indicators, Parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Where the alarm of an indicator begins and ends; it is a lower limit if it ends above its beginning."""

    indicator: Indicator
    field: str
    """Of Indicators."""
    begins: float
    ends: float

    def is_exceeded(self, value: float, *, is_raised: bool) -> bool:
        """Whether `value` is bad; after the alarm has begun, whether it is not good yet."""
        limit = self.ends if is_raised else self.begins
        return value < limit if self.ends > self.begins else value > limit


LIMITS = (
    Limit(indicator=Indicator.GPU_UTILISATION, field="gpu_utilisation_ratio", begins=0.80, ends=0.85),
    Limit(indicator=Indicator.MEMORY_BALANCE, field="memory_imbalance_ratio", begins=1.20, ends=1.15),
    Limit(indicator=Indicator.COMMUNICATION, field="communication_ratio", begins=0.10, ends=0.08),
    Limit(indicator=Indicator.STRAGGLER, field="straggler_ratio", begins=1.30, ends=1.20),
    Limit(indicator=Indicator.LOSS, field="loss_trend_ratio", begins=0.05, ends=0.0),
    Limit(indicator=Indicator.LOSS, field="loss_since_start_ratio", begins=-0.01, ends=-0.02),
)
DATA_WAIT_RATIO = 0.05
"""From here on, data is the likely cause of a GPU that idles."""


def alarms(
    indicators: Indicators, raised: tuple[Alarm, ...], parallelism: Parallelism, *, now: float
) -> tuple[Alarm, ...]:
    """The alarms that hold for `indicators`, `raised` being those that held before. `now` is in unix seconds."""
    before = {alarm.indicator: alarm for alarm in raised}
    found: dict[Indicator, Alarm] = {}
    for limit in LIMITS:
        value, was = getattr(indicators, limit.field), before.get(limit.indicator)
        # of the two limits of the loss, the one that began the alarm ends it
        is_raised = was is not None and was.threshold == limit.begins
        if value is None or limit.indicator in found or not limit.is_exceeded(value, is_raised=is_raised):
            continue
        found[limit.indicator] = Alarm(
            indicator=limit.indicator,
            value=value,
            threshold=limit.begins,
            remedy=remedy(limit.indicator, indicators, parallelism),
            since=now if was is None else was.since,
        )
    return tuple(found.values())


def remedy(indicator: Indicator, indicators: Indicators, parallelism: Parallelism) -> str:
    """What to try, most likely first."""
    match indicator:
        case Indicator.GPU_UTILISATION:
            return _busier(indicators)
        case Indicator.MEMORY_BALANCE:
            return (
                "ranks hold unequal shares: set dataset.packing to true, so that sequences are of one length, and "
                "shard more (parallelism.strategy FSDP, or DeepSpeed with stage 3)"
            )
        case Indicator.COMMUNICATION:
            return f"{_fewer_messages(parallelism)}; then look at the network: NCCL_SOCKET_IFNAME and NCCL_IB_HCA"
        case Indicator.STRAGGLER:
            return _evener(indicators)
        case Indicator.LOSS:
            return (
                "lower training.learningRate (by half), lengthen training.schedule.warmupRatio, and clip harder with "
                "training.maxGradNorm 0.5; then look at the data"
            )


def _busier(indicators: Indicators) -> str:
    if (indicators.data_wait_ratio or 0) > DATA_WAIT_RATIO:
        return "the GPUs wait for data: put the cache volume on faster storage, or give more resources.cpuPerGpu"
    if (indicators.communication_ratio or 0) > 0.10:
        return "the GPUs wait for one another: see the alarm Communication"
    return (
        "kernels have too little to do: raise parallelism.microBatch, or dataset.maxTokens with dataset.packing true, "
        "and set parallelism.activationCheckpointing to None where memory allows"
    )


def _evener(indicators: Indicators) -> str:
    if (indicators.data_wait_ratio or 0) > DATA_WAIT_RATIO:
        return (
            "a rank waits for its data: look at the cache volume of its node, or give more resources.cpuPerGpu; "
            "progress.slowestRank says which"
        )
    return (
        "all ranks wait for progress.slowestRank: look at its node (clocks and temperature in nvidia-smi -q, PCIe "
        "width, other work on it) and keep the run off it with scheduling.nodeSelector; without dataset.packing, "
        "sequences of uneven length look the same"
    )


def _fewer_messages(parallelism: Parallelism) -> str:
    if isinstance(parallelism, DeepSpeedParallelism):
        return (
            "set deepspeed.reduceBucketElements and allgatherBucketElements to 500000000, overlapCommunication true, "
            "or use a lower deepspeed.stage where memory allows"
        )
    if isinstance(parallelism, FsdpParallelism):
        return "set fsdp.reshardAfterForward to false where memory allows, or raise parallelism.microBatch"
    return "raise training.globalBatch.samples, so that gradients are exchanged less often"

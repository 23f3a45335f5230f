"""What a run has cost so far."""

from finetune_operator.status.base import Line, StatusModel


class EarlierCostStatus(StatusModel):
    """Of attempts that are listed no longer."""

    gpu_seconds: int = 0
    """Held."""
    useful_gpu_seconds: int = 0
    """Kept."""
    lost_gpu_seconds: int = 0
    """Lost."""
    queued_seconds: int = 0
    """Waited."""


class CostStatus(StatusModel):
    """GPU time, added up over all attempts; brought up to date whenever the status is written for another reason."""

    gpu_seconds: int
    """Held: GPUs x seconds from when all workers ran until none was left."""
    useful_gpu_seconds: int
    """Of these, spent from an attempt's first step to its newest checkpoint, or to the run's end: it is kept."""
    lost_gpu_seconds: int
    """Of these, spent on steps that had to be done again, and on coming to a first step again, or never."""
    queued_seconds: int
    """From when workers were asked for until all of them ran: in a queue, for room, for images."""
    goodput: Line | None = None
    """`93%`: share of the GPU time held that went into steps that are kept, or will be by the next checkpoint."""
    price: Line | None = None
    """`12.34 EUR`: of the GPU time held, by the admin's present price."""
    earlier: EarlierCostStatus | None = None

"""The newest observation of a training."""

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_operator.status.base import Line, StatusModel, Timestamp


class AlarmStatus(StatusModel):
    """An indicator beyond its limit."""

    indicator: Line
    """`GpuUtilisation`, `MemoryBalance`, `Communication`, `Straggler` or `Loss`."""
    value: Line
    """When it was last measured."""
    threshold: Line
    """Where the alarm begins."""
    remedy: Annotated[str, StringConstraints(max_length=400)]
    """What to try, in the fields of the spec."""
    since: Timestamp
    """When the indicator went beyond its limit."""
    standing: bool = False
    """True once it has stayed so for five minutes: then the condition Healthy is False."""


class TrackerStatus(StatusModel):
    """What became of an experiment tracker; none of them stops or slows training."""

    name: Line
    """`swanlab`, `tensorboard`, `wandb` or `mlflow`."""
    state: Line
    """Connecting, Live, Stalled or Down."""
    dropped: int = 0
    """Points that never reached it."""
    url: Annotated[str, StringConstraints(max_length=300)] | None = None
    """Where the run is shown."""
    message: Annotated[str, StringConstraints(max_length=300)] | None = None
    """Why it is Stalled or Down."""


class ProgressStatus(StatusModel):
    """The newest progress that rank 0 reported."""

    attempt: int
    """Which attempt said so."""
    stage: Line
    """What the trainer is doing."""
    step: int
    """Optimizer steps done since the run began, earlier attempts included."""
    total_steps: int
    """Optimizer steps in all."""
    percent: Line
    """`42%`, of the steps."""
    epoch: float
    """Passes over the training rows so far."""
    loss: Line | None = None
    """Text, since a resource holds no float that every client prints alike."""
    validation_loss: Line | None = None
    """Of the newest evaluation."""
    best_validation_loss: Line | None = None
    """The lowest so far."""
    best_step: int | None = None
    """The step after which it was found."""
    skipped_steps: int = 0
    """Steps of the whole run that changed nothing, since loss or gradient norm was not finite."""
    interventions: Annotated[tuple[Line, ...], Field(max_length=8)] = ()
    """What was done about such steps and about a diverging loss, as stability says; the newest ones, oldest first."""
    learning_rate: Line | None = None
    """Of the last step."""
    tokens_per_second: int | None = None
    """Real (non-padding) tokens of all ranks."""
    step_seconds: Line | None = None
    """Median of the last steps."""
    eta: Line | None = None
    """`1h12m`."""
    peak_memory: Line | None = None
    """`53.9Gi`, largest over the GPUs."""
    samples_per_second: Line | None = None
    """Conversations of all ranks, however they are packed."""
    mfu: Line | None = None
    """`41%`: share of the GPUs' bf16 peak that the model's own operations need."""
    gpu_utilisation: Line | None = None
    """Of the least busy GPU."""
    memory_imbalance: Line | None = None
    """Peak memory of the fullest GPU / mean: 1.00 is balanced."""
    communication: Line | None = None
    """Share of a step in which the ranks only communicate."""
    data_wait: Line | None = None
    """Share of the time in which the slowest rank waits for data."""
    slowest_rank: Line | None = None
    """The rank that the others wait for, its node, and its own time for a step over theirs: `rank 5 on gpu-7: 1.42`."""
    loss_trend: Line | None = None
    """Change of the loss over the last steps; 0% where noise explains it."""
    alarms: Annotated[tuple[AlarmStatus, ...], Field(max_length=8)] = ()
    """Indicators that are beyond their limits."""
    trackers: Annotated[tuple[TrackerStatus, ...], Field(max_length=8)] = ()
    """The trackers that the spec asks for."""
    updated_at: Timestamp
    """When the trainer did its last step or changed its stage, by its own clock."""
    seen_at: Timestamp | None = None
    """When the operator first saw that; absent: an earlier release wrote these figures."""
    stale: bool = False
    """True when rank 0 has not been heard of for longer than the operator's limit: the figures above are old."""


class CheckpointStatus(StatusModel):
    """The newest complete checkpoint."""

    step: int
    """Optimizer steps done when it was taken."""
    path: Line
    """In the output volume."""
    bytes: int
    """Its size."""

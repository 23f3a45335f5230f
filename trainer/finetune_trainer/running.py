"""What the stages of a run share, and how all ranks stop at the same place."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_contract import CheckpointReport, RunConfig, Steps
from finetune_trainer import pulse
from finetune_trainer.checkpoint import Saver
from finetune_trainer.data.batch import Step
from finetune_trainer.data.loader import TokenCache
from finetune_trainer.distributed import Question, World
from finetune_trainer.evaluation import EvaluationState
from finetune_trainer.measuring.meter import Meter
from finetune_trainer.model import Source
from finetune_trainer.readback import Readback
from finetune_trainer.reporting import Reporter
from finetune_trainer.stability import StabilityState
from finetune_trainer.stopping import Stop, StopAgreedError
from finetune_trainer.strategies import Engine


@dataclass(slots=True)
class Position:
    """How far the run has come, as far as the host knows."""

    step: int = 0
    updates: int = 0
    """Steps whose update was applied."""
    tokens: int = 0
    loss: float | None = None
    """Of the last step whose loss was finite."""
    stability: StabilityState = field(default_factory=StabilityState)
    evaluation: EvaluationState = field(default_factory=EvaluationState)
    checkpoint: CheckpointReport | None = None
    """The newest complete one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A step whose work is queued on the device, and whose results nobody has read."""

    step: Step
    rate: float
    began: float
    """Seconds of the monotonic clock."""
    queued: float
    readback: Readback
    """Loss, gradient norm, whether the update was applied, loss scale; now and then the norm of the first moment."""
    max_norm: float | None
    """What the gradients were clipped to."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What the stages of a run share."""

    config: RunConfig
    world: World
    stop: Stop
    reporter: Reporter
    cache: TokenCache
    steps: Steps
    engine: Engine
    initial: Source
    """The values that training begins with."""
    settings: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    """Of every trained parameter, whole."""
    saver: Saver
    position: Position
    meter: Meter
    question: Question
    """Asked whether to stop."""
    in_flight: InFlight | None = None
    heard_at: float = -math.inf
    """When the last step that was heard of was done; seconds of the monotonic clock."""
    gradients_checked: bool = False
    """Whether this attempt has seen that everything learns."""

    @property
    def folder(self) -> Path:
        """The run's own folder on the output volume."""
        return Path(self.config.output_dir)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps.total


def stop_if_agreed(run: Run) -> None:
    """Raise StopAgreedError on every rank once any of them has been told to stop.

    Between passes, where it costs nothing: ranks hear of one another at the next call. Whoever comes here gets on.
    """
    pulse.own.beat()
    if run.question.any_rank(run.stop.requested):
        raise StopAgreedError


def stop_now_if_agreed(run: Run) -> None:
    """The same where no next call will come soon: waits for the other ranks."""
    if run.question.answer() or run.question.any_rank(run.stop.requested) or run.question.answer():
        raise StopAgreedError

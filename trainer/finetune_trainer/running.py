"""What the stages of a run share, and how all ranks stop at the same place."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finetune_contract import CheckpointReport, RunConfig
from finetune_trainer.data.loader import TokenCache
from finetune_trainer.distributed import World, any_rank
from finetune_trainer.measuring.meter import Meter
from finetune_trainer.reporting import Reporter
from finetune_trainer.strategies import Engine


class Stop(Protocol):
    """Whether this process has been told to stop."""

    @property
    def requested(self) -> bool:
        """True from the first signal on."""


class StopAgreedError(Exception):
    """All ranks have agreed to stop; raised between two passes, when no collective is under way."""


@dataclass(slots=True)
class Position:
    """How far the run has come."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    validation_loss: float | None = None
    validated_step: int = 0
    checkpoint: CheckpointReport | None = None
    """The newest complete one."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What the stages of a run share."""

    config: RunConfig
    world: World
    stop: Stop
    reporter: Reporter
    cache: TokenCache
    total_steps: int
    engine: Engine
    meter: Meter
    settings: dict[str, Any]
    position: Position

    @property
    def folder(self) -> Path:
        """The run's own folder on the output volume."""
        return Path(self.config.output_dir)


def stop_if_agreed(run: Run) -> None:
    """Raise StopAgreedError on every rank once any of them has been told to stop."""
    if any_rank(run.world, run.stop.requested):
        raise StopAgreedError

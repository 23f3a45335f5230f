"""Reading checkpoints: which ones are complete, which one is chosen, and what it holds."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from finetune_contract import CheckpointReport, Precision
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.state import STATE_FILE, TrainerState
from finetune_trainer.distributed import World, on_main
from finetune_trainer.failures import UserError
from finetune_trainer.model import WeightFiles
from finetune_trainer.optim import LossScale

log = logging.getLogger("finetune")

COMPLETE_FILE: Final = "COMPLETE"


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were finished, newest first."""
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))
    return sorted((path for path in named if (path / COMPLETE_FILE).is_file()), reverse=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None when all are as they were written. Reads all of them."""
    try:
        files = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            with open(checkpoint / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return f"{name} is not as it was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, opened; see strategies.SavedState."""

    path: Path
    state: TrainerState
    files: WeightFiles

    @property
    def names(self) -> list[str]:
        """The trained parameters."""
        return [name.removeprefix("weight.") for name in self.files.names if name.startswith("weight.")]

    def report(self) -> CheckpointReport:
        """What is known of it without having seen it saved."""
        size = sum(file.stat().st_size for file in self.path.iterdir())
        return CheckpointReport(step=self.state.step, path=str(self.path), bytes=size, seconds=0.0)

    @property
    def updates(self) -> int:
        """How often the optimizer has moved."""
        return self.state.updates

    @property
    def loss_scale(self) -> LossScale:
        """As it was when it was saved."""
        scale = LossScale.of(Precision(self.state.settings["precision"]))
        scale.scale, scale.quiet_updates = self.state.loss_scale, self.state.quiet_updates
        return scale

    def weight(self, name: str, rows: slice) -> Tensor:
        """Rows of a master weight."""
        return self.files.read(f"weight.{name}", rows)

    def exp_avg(self, name: str, rows: slice) -> Tensor:
        """Rows of the first moment."""
        return self.files.read(f"exp_avg.{name}", rows)

    def exp_avg_sq(self, name: str, rows: slice) -> Tensor:
        """Rows of the second moment."""
        return self.files.read(f"exp_avg_sq.{name}", rows)


def newest(run_folder: Path, settings: dict[str, Any], world: World, *, disk: Disk | None = None) -> Checkpoint | None:
    """The newest undamaged checkpoint, the same on every rank; None when the run begins.

    Raises: AgreedError when it belongs to other settings; the message names what differs.
    """
    path = on_main(world, lambda: _newest_sound(run_folder / CHECKPOINTS, settings, disk or Disk()))
    return opened(Path(path)) if path else None


def opened(path: Path) -> Checkpoint:
    """A checkpoint that is known to be sound."""
    return Checkpoint(path, _state(path), WeightFiles(path))


def _state(path: Path) -> TrainerState:
    return TrainerState.model_validate_json((path / STATE_FILE).read_text(encoding="utf-8"))


def _newest_sound(folder: Path, settings: dict[str, Any], disk: Disk) -> str:
    for path in complete_checkpoints(folder):
        found = damage(path)
        if found is None:
            _refuse_other_settings(path, settings)
            return str(path)
        log.warning("checkpoint=%s is damaged (%s): going back to the one before", path, found)
        # out of the way, so that it neither counts as one of those kept nor as newer than what follows
        disk.rename(path, path.with_name(f".damaged-{path.name}"))
    return ""


def _refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    saved = _state(path).settings
    differing = sorted(key for key in saved.keys() | settings.keys() if saved.get(key) != settings.get(key))
    if differing:
        details = tuple(f"{key}: checkpoint {saved.get(key)}, run {settings.get(key)}" for key in differing)
        raise UserError(
            "CheckpointMismatch",
            f"checkpoint {path} belongs to a run with other settings: {', '.join(differing)} differ; undo the change, "
            "or start under another name",
            details=details,
        )

"""Reading checkpoints: which one is chosen, whether it is sound, and what it holds."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from finetune_contract import CheckpointReport
from finetune_contract.paths import CHECKPOINTS
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import (
    COMPLETE_FILE,
    STATE_FILE,
    complete_checkpoints,
    manifest_of,
    set_aside,
)
from finetune_trainer.checkpoint.state import TrainerState
from finetune_trainer.checkpoint.volume import volume_errors
from finetune_trainer.checkpoint.writing import KINDS, entry_of
from finetune_trainer.distributed import World, from_all, on_main
from finetune_trainer.failures import UserError
from finetune_trainer.model import Source, WeightFiles
from finetune_trainer.optim import SavedScale
from finetune_trainer.stopping import Stop, heeding, stop_if_told, unless_stopped

log = logging.getLogger("finetune")

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of every trained parameter."""

_WORDS: Final = {"model": "base model", "template": "chat template", "tokens": "prepared data"}
"""What the digests among the settings are of."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint, opened; see strategies.SavedState."""

    path: Path
    state: TrainerState
    files: WeightFiles
    read: Source
    """Rows of a tensor in `files`."""

    @property
    def names(self) -> list[str]:
        """The trained parameters."""
        return [name.removeprefix("weight.") for name in self.files.names if name.startswith("weight.")]

    def report(self) -> CheckpointReport:
        """What is known of it without having seen it saved."""
        size = manifest_of(self.path).bytes
        return CheckpointReport(
            step=self.state.step, path=str(self.path), bytes=size, seconds=0.0, blocking_seconds=0.0
        )

    @property
    def updates(self) -> int:
        """How often the optimizer has moved."""
        return self.state.updates

    @property
    def loss_scale(self) -> SavedScale:
        """As it was when it was saved."""
        return SavedScale(self.state.loss_scale, self.state.quiet_updates)

    def weight(self, name: str, rows: slice) -> Tensor:
        """Rows of a master weight."""
        return self.read(f"weight.{name}", rows)

    def exp_avg(self, name: str, rows: slice) -> Tensor:
        """Rows of the first moment."""
        return self.read(f"exp_avg.{name}", rows)

    def exp_avg_sq(self, name: str, rows: slice) -> Tensor:
        """Rows of the second moment."""
        return self.read(f"exp_avg_sq.{name}", rows)


def newest(
    run_folder: Path,
    settings: dict[str, Any],
    shapes: Shapes,
    world: World,
    *,
    stop: Stop,
    not_after: int | None = None,
    disk: Disk | None = None,
) -> Checkpoint | None:
    """The newest undamaged checkpoint of a step up to `not_after`, the same on every rank; None when there is none.

    All ranks take part in checking it. A damaged one is set aside, with a warning that names file and reason.

    Raises: AgreedError when it belongs to other settings or another model, the message names what differs;
    StopAgreedError, also later while it is read, which all ranks must do alike.
    """
    folder = run_folder / CHECKPOINTS

    def candidate() -> str:
        found = complete_checkpoints(folder, not_after=not_after)
        return str(found[0]) if found else ""

    while path := on_main(world, candidate):
        reason = _damage_seen_by_any(Path(path), world, stop)
        if reason is None:
            return _fitting(Path(path), settings, shapes, world, stop)
        on_main(world, lambda path=path, reason=reason: _passed_over(Path(path), reason, disk or Disk()))  # type: ignore[misc]
    return None


def opened(path: Path) -> Checkpoint:
    """A checkpoint that is known to be sound."""
    files = WeightFiles(path)
    return Checkpoint(path, _state(path), files, files.read)


def damage(checkpoint: Path, *, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, by name; None when all are as they were written.

    Reads every `parts`-th of them, from number `part` on.
    """
    try:
        files = manifest_of(checkpoint).files
        strangers = {path.name for path in checkpoint.iterdir()} - files.keys() - {COMPLETE_FILE}
        if strangers:
            return f"{min(strangers)} does not belong to it"
        for name in sorted(files)[part::parts]:
            found = entry_of(checkpoint / name)
            if found.bytes != files[name].bytes:
                return f"{name} has {found.bytes:,} bytes instead of {files[name].bytes:,}"
            if found != files[name]:
                return f"{name} is not as it was written: its sha256 differs"
    except OSError as error:
        return str(error)
    except ValueError:
        return f"{COMPLETE_FILE} is not as it was written"
    return None


def _damage_seen_by_any(path: Path, world: World, stop: Stop) -> str | None:
    task = unless_stopped(world, stop, lambda: damage(path, part=world.rank, parts=world.size))
    return next(filter(None, from_all(world, task.result() or "")), None)


def _passed_over(path: Path, reason: str, disk: Disk) -> str:
    log.warning("checkpoint=%s is damaged (%s): going back to the one before", path, reason)
    # out of the way, so that it neither counts as one of those kept nor as newer than what follows
    with volume_errors(path.parent):
        set_aside(path, disk)
    return ""


def _fitting(path: Path, settings: dict[str, Any], shapes: Shapes, world: World, stop: Stop) -> Checkpoint:
    def check() -> str:
        _refuse_other_settings(path, settings)
        _refuse_other_shapes(opened(path), shapes)
        return ""

    on_main(world, check)
    found = opened(path)
    return replace(found, read=heeding(found.read, lambda: stop_if_told(world, stop)))


def _state(path: Path) -> TrainerState:
    return TrainerState.model_validate_json((path / STATE_FILE).read_text(encoding="utf-8"))


def _refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    saved = _state(path).settings
    differing = sorted(key for key in saved.keys() | settings.keys() if saved.get(key) != settings.get(key))
    if differing:
        names = [_WORDS.get(key, key) for key in differing]
        details = tuple(
            f"{name}: checkpoint {saved.get(key)}, run {settings.get(key)}"
            for name, key in zip(names, differing, strict=True)
        )
        raise UserError(
            "CheckpointMismatch",
            f"checkpoint {path} belongs to a run with other settings: {', '.join(names)} differ, the first is "
            f"{details[0][:600]}; undo the change, or start under another name",
            details=details,
        )


def _refuse_other_shapes(found: Checkpoint, shapes: Shapes) -> None:
    saved = {name: found.files.shape(name) for name in found.files.names}
    wanted = {f"{kind}.{name}": shape for name, shape in shapes.items() for kind in KINDS}
    differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if differing:
        details = tuple(f"{name}: checkpoint {saved.get(name)}, model {wanted.get(name)}" for name in differing)
        raise UserError(
            "CheckpointMismatch",
            f"checkpoint {found.path} belongs to another model or adapter: {len(differing)} of its tensors differ, the "
            f"first is {details[0]}; start under another name",
            details=details,
        )

"""Saved states of a run: one layout for every strategy and number of ranks, so any may go on from any other's.

    CHECKPOINTS/step-00000500/
        trained-00001.safetensors ...   weight|exp_avg|exp_avg_sq of every trained parameter, whole, fp32
        trainer_state.json              step, updates, loss scale, tokens, the settings it belongs to
        COMPLETE                        size and sha256 of each of the above

There is no state of random generators: what is random in a step is a function of (seed, step, micro-batch, rank), and
the loader needs the step number alone. Nothing is pickled, so a file from a shared volume can run no code.

A checkpoint grows in a hidden folder beside its place and appears by a rename once everything is on disk; what is
found half-written or damaged is never read.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
import transformers
from torch import Tensor

from finetune_contract import CheckpointReport, ContractModel, Precision, RunConfig
from finetune_contract.paths import CHECKPOINTS, checkpoint_name
from finetune_trainer.distributed import World, on_main
from finetune_trainer.failures import UserError
from finetune_trainer.model import WeightFiles
from finetune_trainer.optim import LossScale
from finetune_trainer.strategies import Trained

log = logging.getLogger("finetune")

STATE_FILE: Final = "trainer_state.json"
COMPLETE_FILE: Final = "COMPLETE"
FILE_BYTES: Final = 2**30
"""A file of tensors is closed when it reaches this size; saving holds twice as much in memory."""


class TrainerState(ContractModel):
    """All that a run needs besides tensors to go on after `step`."""

    step: int
    updates: int
    """Steps whose update was applied: fewer than `step` where fp16 gradients overflowed."""
    loss_scale: float
    quiet_updates: int
    tokens: int
    """Real tokens trained on since the run began."""
    loss: float
    """Of the last step."""
    validation_loss: float | None
    validated_step: int
    settings: dict[str, Any]
    """See `settings_of`."""
    fingerprint: str
    """sha256 of the settings."""
    versions: dict[str, str]


def settings_of(config: RunConfig, *, model_digest: str, tokens_digest: str) -> dict[str, Any]:
    """What decides the course of a run. A state may only be taken up under the same settings; how the batch is cut,
    the strategy, memory savings and everything about saving and reporting may differ."""
    relevant = config.model_dump(
        mode="json", include={"method", "epochs", "max_steps", "optimizer", "schedule", "precision", "seed"}
    )
    return relevant | {
        "global_sequences": config.batch.global_sequences,
        "model": model_digest,
        "tokens": tokens_digest,
    }


def fingerprint(settings: dict[str, Any]) -> str:
    """One word for the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class Disk:
    """The only way in which this file changes a disk; a test may let any of its verbs fail."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file and wait until it is on the disk."""
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents."""
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, for good."""
        _fsync(old)
        os.rename(old, new)
        _fsync(new.parent)

    def remove(self, path: Path) -> None:
        """Remove a folder: first its name, then its contents, so that no reader finds half of it."""
        hidden = path.with_name(f".removed-{path.name.lstrip('.')}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(
    run_folder: Path,
    state: TrainerState,
    trained: Iterator[Trained],
    world: World,
    *,
    keep: int,
    disk: Disk | None = None,
    file_bytes: int = FILE_BYTES,
) -> CheckpointReport:
    """Save `state`; called by all ranks, returns when it is complete. Older ones beyond `keep` are gone then.

    Raises: AgreedError on every rank when rank 0 cannot write.
    """
    began = time.monotonic()
    folder = run_folder / CHECKPOINTS
    writer = _Writer(folder / checkpoint_name(state.step), disk or Disk(), file_bytes) if world.is_main else None
    for each in trained:  # gathering is collective, so every rank goes on even when rank 0 can no longer write
        if writer is not None:
            writer.add(each)

    def finish() -> str:
        assert writer is not None
        size = writer.finish(state)
        _prune(folder, keep, disk or Disk())
        return CheckpointReport(
            step=state.step, path=str(writer.target), bytes=size, seconds=round(time.monotonic() - began, 3)
        ).model_dump_json()

    return CheckpointReport.model_validate_json(on_main(world, finish))


class _Writer:
    """Writes one checkpoint, file by file; a first error is kept for `finish`."""

    def __init__(self, target: Path, disk: Disk, file_bytes: int) -> None:
        self.target = target
        self._file_bytes = file_bytes
        self._disk = disk
        self._growing = target.with_name(f".growing-{target.name}")
        self._pending: dict[str, Tensor] = {}
        self._files: dict[str, dict[str, Any]] = {}
        self._error: Exception | None = None

    def add(self, each: Trained) -> None:
        """Take a parameter; writes a file when enough has come together."""
        self._pending |= {
            f"weight.{each.name}": each.weight.contiguous(),
            f"exp_avg.{each.name}": each.exp_avg.contiguous(),
            f"exp_avg_sq.{each.name}": each.exp_avg_sq.contiguous(),
        }
        if sum(tensor.nbytes for tensor in self._pending.values()) >= self._file_bytes:
            self._guarded_flush()

    def finish(self, state: TrainerState) -> int:
        """Write the rest, mark the folder complete and give it its name; returns its size in bytes."""
        self._guarded_flush()
        if self._error is not None:
            raise self._error
        self._write(STATE_FILE, state.model_dump_json(indent=1).encode())
        self._write(COMPLETE_FILE, json.dumps({"files": dict(self._files)}, indent=1).encode())
        if self.target.exists():  # incomplete or damaged, else there would have been nothing to save
            self._disk.remove(self.target)
        self._disk.rename(self._growing, self.target)
        return sum(entry["bytes"] for entry in self._files.values())

    def _guarded_flush(self) -> None:
        if self._error is None and self._pending:
            try:
                self._flush()
            except Exception as error:  # raised by `finish`, when the other ranks can hear of it
                self._error = error
        self._pending = {}

    def _flush(self) -> None:
        if not self._files:
            if self._growing.exists():
                self._disk.remove(self._growing)
            self._disk.make_folder(self._growing)
        number = len(self._files) + 1
        self._write(f"trained-{number:05d}.safetensors", safetensors.torch.save(self._pending))

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._disk.write(self._growing / name, data)
        except OSError as error:
            free = shutil.disk_usage(self._growing).free
            error.strerror = f"{error.strerror}: {len(data):,} bytes to write, {free:,} free on {self._growing.parent}"
            raise
        self._files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _prune(folder: Path, keep: int, disk: Disk) -> None:
    """Only ever called when a newer checkpoint has become complete; takes leftovers of crashes along."""
    for path in complete_checkpoints(folder)[keep:]:
        disk.remove(path)
    for path in folder.iterdir():
        if path.name.startswith((".growing-", ".removed-", ".damaged-")):
            shutil.rmtree(path, ignore_errors=True)


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


def model_digest(model_dir: str) -> str:
    """Tells models apart without reading their weights: config.json, and the weight files' names and sizes."""
    digest = hashlib.sha256((Path(model_dir) / "config.json").read_bytes())
    for file in sorted(Path(model_dir).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What wrote a state, for the reader of a puzzling one."""
    return {"torch": str(torch.__version__), "transformers": transformers.__version__}

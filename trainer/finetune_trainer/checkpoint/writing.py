"""Writing a checkpoint: in a hidden folder, file by file, complete before it gets its name."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from finetune_contract import CheckpointReport
from finetune_contract.paths import CHECKPOINTS, checkpoint_name
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.reading import COMPLETE_FILE
from finetune_trainer.checkpoint.retention import prune
from finetune_trainer.checkpoint.state import STATE_FILE, TrainerState
from finetune_trainer.distributed import World, on_main
from finetune_trainer.strategies import Trained

FILE_BYTES: Final = 2**30
"""A file of tensors is closed when it reaches this size; saving holds twice as much in memory."""


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
        prune(folder, keep, disk or Disk())
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

"""One rank's share of a checkpoint: put in by the training, written by a thread.

The tensors of all parameters are dealt out so that every rank writes about as much. Between the two sides lies a
buffer: where it may hold the whole share, training goes on as soon as the last tensor is copied; where it may not,
training waits for the disk.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from finetune_trainer import pulse
from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import FileEntry
from finetune_trainer.checkpoint.volume import volume_errors
from finetune_trainer.stopping import NEVER, Deadline
from finetune_trainer.strategies import Trained

FILE_BYTES: Final = 2**29
"""A file of tensors is closed when it reaches this size."""
BUFFER_BYTES: Final = 2 * FILE_BYTES
"""What waits to be written where the whole share may not: one file is filled while another one is written."""
KINDS: Final = ("weight", "exp_avg", "exp_avg_sq")
_LOOK_SECONDS: Final = 0.2


class AbandonedError(BaseException):
    """The share will never be whole, and nobody waits for it: no failure to be told."""


class Share:
    """What one rank writes of a checkpoint."""

    def __init__(
        self, folder: Path, rank: int, disk: Disk, *, file_bytes: int = FILE_BYTES, buffer_bytes: int | None = None
    ) -> None:
        self._folder, self._rank, self._disk = folder, rank, disk
        self._file_bytes = file_bytes
        self._buffer_bytes = None if buffer_bytes is None else max(buffer_bytes, file_bytes)
        self._waiting: deque[tuple[str, Tensor]] = deque()
        self._held_bytes = 0
        self._is_closed = self._is_useless = False
        self.is_abandoned = False
        self._changed = threading.Condition()

    def put(self, name: str, tensor: Tensor, deadline: Deadline = NEVER) -> None:
        """Copy `tensor` and hand it over; waits for room. Once writing has failed there is nothing to do.

        Past the deadline the share is abandoned.
        """
        with self._changed:
            while self._is_full() and not self._is_useless:
                self._changed.wait(_LOOK_SECONDS)
                if deadline.is_over:
                    self.abandon()
            if self._is_useless:
                return
        copied = tensor.detach().to("cpu", copy=True).contiguous()
        with self._changed:
            self._waiting.append((name, copied))
            self._held_bytes += copied.nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nothing more will be put in although it is not whole."""
        with self._changed:
            self.is_abandoned = self._is_useless = True
            self._waiting.clear()
            self._changed.notify_all()

    def written(self) -> dict[str, FileEntry]:
        """Write everything that is put in until the share is closed; returns the files. Called by another thread.

        Raises: AbandonedError, VolumeError.
        """
        files: dict[str, FileEntry] = {}
        try:
            for tensors in self._files_full():
                path = self._folder / f"trained-{self._rank:04d}-{len(files) + 1:04d}.safetensors"
                with volume_errors(self._folder.parent):
                    self._disk.write_tensors(path, tensors)
                    files[path.name] = entry_of(path)
                self._released(sum(tensor.nbytes for tensor in tensors.values()))
        except BaseException:
            with self._changed:
                self._is_useless = True
                self._waiting.clear()
                self._changed.notify_all()
            raise
        return files

    def _files_full(self) -> Iterator[dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        for name, tensor in iter(self._taken, None):
            tensors[name] = tensor
            if sum(each.nbytes for each in tensors.values()) >= self._file_bytes:
                yield tensors
                tensors = {}
        if tensors:
            yield tensors

    def _taken(self) -> tuple[str, Tensor] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed or self.is_abandoned)
            if self.is_abandoned:
                raise AbandonedError
            return self._waiting.popleft() if self._waiting else None

    def _released(self, size_bytes: int) -> None:
        with self._changed:
            self._held_bytes -= size_bytes
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return self._buffer_bytes is not None and self._held_bytes >= self._buffer_bytes


def entry_of(path: Path) -> FileEntry:
    """A file as it is on the disk now."""
    pulse.own.beat()
    with open(path, "rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


@torch.no_grad()
def deal_out(
    trained: Iterator[Trained], share: Share, *, rank: int, world_size: int, deadline: Deadline = NEVER
) -> int:
    """Put this rank's part of the tensors into its share; gathering is collective, so every rank sees all of them.

    Each goes to the rank that has least. Returns the bytes of all.
    """
    dealt = [0] * world_size
    for each in trained:
        pulse.own.beat()
        for kind in KINDS:
            tensor: Tensor = getattr(each, kind)
            owner = dealt.index(min(dealt))
            dealt[owner] += tensor.nbytes
            if owner == rank:
                share.put(f"{kind}.{each.name}", tensor, deadline)
    return sum(dealt)

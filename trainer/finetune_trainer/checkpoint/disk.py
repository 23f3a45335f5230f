"""The only way in which checkpoints and artifacts change a disk."""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from finetune_trainer import pulse


class Disk:
    """The verbs by which a disk is changed; a test may let any of them fail, or be the last thing that a process does.

    Whatever has returned is on the disk, and outlives a power cut.
    """

    def write(self, path: Path, data: bytes) -> None:
        """Write a file."""
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        pulse.own.beat()

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Write a safetensors file, straight from the tensors' own memory; other threads run meanwhile."""
        try:
            safetensors.torch.save_file(dict(tensors), path, metadata=metadata)
        except SafetensorError as error:  # the number is in its text alone
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        _fsync(path)
        pulse.own.beat()

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents."""
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a folder."""
        _fsync(old)
        os.rename(old, new)
        _fsync(new.parent)

    def remove(self, path: Path) -> None:
        """Remove a folder: first its name, then its contents, so that no reader finds half of it."""
        hidden = path.with_name(f".removed-{path.name.lstrip('.')}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden)


def is_full(error: BaseException) -> bool:
    """Whether a disk had no room for what was written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

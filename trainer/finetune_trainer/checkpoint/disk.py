"""The only way in which checkpoints and artifacts change a disk."""

import os
import shutil
from pathlib import Path


class Disk:
    """The only way in which checkpoints change a disk; a test may let any of its verbs fail."""

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

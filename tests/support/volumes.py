"""Small volumes of their own: full, read-only, or cut off from power. They need root and mount."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing() -> str | None:
    """Why no volume can be mounted here; None when one can."""
    if os.geteuid() != 0:
        return "mounting a volume needs root"
    lost = [name for name in ("mount", "umount", "mkfs.ext4") if shutil.which(name) is None]
    return f"{', '.join(lost)} not found" if lost else None


@contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A volume in memory of so many bytes."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"):
        yield folder


def resize(folder: Path, size_bytes: int) -> None:
    """Give a mounted volume in memory another size."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Nobody may write to a mounted volume any more, whoever mounts it elsewhere included."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """`folder` itself, mounted read-only."""
    with _mounted(folder, "--bind", "-o", "ro", str(folder)):
        yield folder


@contextmanager
def ext4(image: Path, folder: Path, *, size: str | None = None) -> Iterator[Path]:
    """The file system in `image`, mounted; made anew with a `size`."""
    if size is not None:
        subprocess.run(["truncate", "-s", size, str(image)], check=True)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with _mounted(folder, "-o", "loop", str(image)):
        yield folder


@contextmanager
def _mounted(folder: Path, *arguments: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    return filler

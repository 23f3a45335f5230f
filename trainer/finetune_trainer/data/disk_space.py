"""Room on the cache volume: asked for before something large is written, and told in sizes when it runs out."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_trainer.data.errors import PreparationError


@contextmanager
def room_for(wanted: int, folder: Path, what: str) -> Iterator[None]:
    """Refuse to fill `folder` up to `wanted` bytes if they cannot fit; say so in sizes too if the volume fills up.

    Raises: PreparationError `NoSpace`.
    """
    missing = wanted - bytes_below(folder)
    if missing > shutil.disk_usage(folder).free:
        raise no_space(folder, what, missing)
    with told_if_full(folder, what, lambda: wanted - bytes_below(folder)):
        yield


@contextmanager
def told_if_full(folder: Path, what: str, missing: Callable[[], int | None]) -> Iterator[None]:
    """Turn the system's word for a full volume into a PreparationError; `missing()` bytes are still to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_space(folder, what, missing()) from error


def no_space(folder: Path, what: str, needed: int | None) -> PreparationError:
    """The cache volume is full; `needed` are the bytes still to be written, if that is known."""
    usage = shutil.disk_usage(folder)
    needs = f" needs {gigabytes(needed)} more" if needed is not None else " needs more"
    return PreparationError(
        "NoSpace",
        f"storage.cache: {what}{needs}, and the volume at {folder} has {gigabytes(usage.free)} free of "
        f"{gigabytes(usage.total)}; enlarge it, or remove models and token caches that are no longer used",
    )


def gigabytes(count: int) -> str:
    """Bytes for reading: `16.38 GB`, `1.2 MB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def bytes_below(folder: Path) -> int:
    """Bytes of all files as far as they have been written; one that is renamed meanwhile counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found = path.stat()
                total += min(found.st_size, 512 * found.st_blocks)  # of a file with gaps, less than its size
    return total

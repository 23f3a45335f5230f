"""Folders on a shared volume that are either complete or not there.

Contents are written into a `.partial` folder beside the target, fsynced, marked with the names, sizes and digests of
all files, and renamed. Whoever finds the folder without its marker, or with a file that differs, knows not to use it.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_trainer.data.digests import file_digest

LOG = logging.getLogger(__name__)

MARKER = "COMPLETE.json"
ABANDONED_SECONDS = 7 * 86_400.0
"""What nobody has gone on with for so long is taken for left behind."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` against every other process on this volume; released by the system if we die."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("another preparation is writing %s, waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing alone would not do while a forked worker has it open too


def partial_folder(folder: Path) -> Path:
    """Where the contents of `folder` grow; to be used under its lock alone."""
    return folder.parent / f".{folder.name}.partial"


def work_folder(folder: Path) -> Path:
    """Where the work towards `folder` is kept when a process dies, so that the next one goes on; under its lock too."""
    return folder.parent / f".{folder.name}.work"


def sweep(root: Path, *, now: float) -> None:
    """Remove what preparations that died long ago left of the folders below `root`, unless somebody goes on with it."""
    for left in [*root.glob(".*.work"), *root.glob(".*.partial")]:
        with suppress(OSError):  # another one sweeps here too
            newest = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if now - newest > ABANDONED_SECONDS:
                with open(root / f"{left.stem}.lock", "w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    LOG.info("removing %s, which nobody has gone on with for %.0f days", left, (now - newest) / 86_400)
                    shutil.rmtree(left)


def complete(folder: Path, facts: dict[str, Any], *, with_digests: bool) -> dict[str, str]:
    """Turn the partial folder of `folder` into `folder`, for good, with `facts` in its marker; the files' digests.

    Digests cost one read of all files; without them the marker holds sizes alone.
    """
    partial = partial_folder(folder)
    files = {}
    for path in _files(partial):
        _fsync(path)
        files[str(path.relative_to(partial))] = _entry(path, with_digest=with_digests)
    marker = partial / MARKER
    marker.write_text(json.dumps({"files": files, "facts": facts}, indent=1), encoding="utf-8")
    _fsync(marker)
    for path in sorted(path for path in partial.rglob("*") if path.is_dir()):
        _fsync(path)
    _fsync(partial)
    shutil.rmtree(folder, ignore_errors=True)  # what stands there had been found incomplete
    os.rename(partial, folder)
    _fsync(folder.parent)
    return {name: entry["sha256"] for name, entry in files.items()} if with_digests else {}


def completed_facts(folder: Path, *, digest_of: Callable[[Path], str] | None = None) -> dict[str, Any] | None:
    """The facts of a complete folder; None if it is absent, unfinished, or a file differs from the marker.

    Sizes are compared always, digests if `digest_of` tells them.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        for name, expected in marker["files"].items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return None
            if digest_of is not None and "sha256" in expected and digest_of(folder / name) != expected["sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    facts: dict[str, Any] = marker["facts"]
    return facts


def _entry(path: Path, *, with_digest: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": path.stat().st_size}
    if with_digest:
        entry["sha256"] = file_digest(path)
    return entry


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

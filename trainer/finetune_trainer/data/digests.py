"""SHA-256 of files, computed once for as long as a file stays as it is.

A digest is remembered together with the file's inode, size, time of change of its content and time of change of its
inode (ctime). Nobody can set the last one, so a file that was written to, even by a program that puts its old times
back, is read again. A file that changed within the last seconds is not remembered: it may change once more and keep the
same times. A file system without these times, or a clock that was set back, would be believed; see
docs/decisions/0007-preparation-in-shards.md.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SETTLED_SECONDS = 2.0
"""The coarsest time stamps of file systems in use."""


class Digests:
    """Digests of files, remembered below a folder that several preparations may share."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def of(self, path: Path) -> str:
        """SHA-256 of a file's content, in hexadecimal."""
        state = _state(path)
        known = self._remembered(path)
        if known is not None and known["state"] == state:
            return str(known["sha256"])
        digest = file_digest(path)
        changed_at = max(state["mtime_ns"], state["ctime_ns"]) / 1e9
        if _state(path) == state and self._now() - changed_at > SETTLED_SECONDS:
            self.remember(path, digest)
        return digest

    def of_all(self, paths: Sequence[Path], *, workers: int) -> list[str]:
        """The digest of every file, in order, several being read at a time."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.of, paths))

    def remember(self, path: Path, digest: str) -> None:
        """Take the word of whoever has just written the file, and keeps others from doing so."""
        self._folder.mkdir(parents=True, exist_ok=True)
        entry = self._entry(path)
        fresh = entry.with_name(f"{entry.name}.{os.getpid()}-{os.urandom(4).hex()}")
        fresh.write_text(json.dumps({"state": _state(path), "sha256": digest}), encoding="utf-8")
        os.replace(fresh, entry)

    def _remembered(self, path: Path) -> dict[str, object] | None:
        try:
            known = json.loads(self._entry(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) and {"state", "sha256"} <= known.keys() else None

    def _entry(self, path: Path) -> Path:
        return self._folder / (hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32] + ".json")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "inode": found.st_ino,
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }

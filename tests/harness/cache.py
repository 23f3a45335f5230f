"""Where built things live, and how two processes share them: one folder per content key, published by rename."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def home() -> Path:
    """The cache folder of this user: `$XDG_CACHE_HOME/qwen3-finetune`, `~/.cache/qwen3-finetune` by default."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "qwen3-finetune"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds a lock of that name across all processes of this user; a killed holder lets go of it."""
    path = home() / "locks" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(parts: Iterable[str | bytes], length: int = 16) -> str:
    """A short hash of the parts in their order; the same parts give the same key on every machine."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:length]


def published(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, built at most once: `build` fills a folder aside, which takes this name only when it is complete."""
    if folder.exists():
        return folder
    with lock(folder.name):
        if not folder.exists():
            _build_aside(folder, build)
    return folder


def _build_aside(folder: Path, build: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):  # of a build that was killed: this process holds the lock
        shutil.rmtree(abandoned)
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        build(aside)
        aside.chmod(0o755)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)

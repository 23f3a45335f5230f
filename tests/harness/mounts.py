"""Mounts below a folder: what pods leave behind when their runtime is killed."""

from __future__ import annotations

import re
from pathlib import Path

from harness.shell import HarnessError, run, succeeds


def below(folder: Path) -> list[Path]:
    """Every mount point at or below the folder, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [Path(_decoded(line.split()[1])) for line in lines]
    return sorted((point for point in points if point.is_relative_to(folder)), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmounts everything at or below the folder; a mount still in use goes away with its last user."""
    for point in below(folder):
        if not succeeds(["umount", point]):
            run(["umount", "--lazy", point])
    left = below(folder)
    if left:
        raise HarnessError(f"still mounted: {', '.join(map(str, left))}; unmount these by hand")


def _decoded(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), text)

"""One run of the harness: its name, and its state folder with everything that it must clean up later."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness import cache, mounts
from harness.processes import Processes
from harness.shell import HarnessError


class Run:
    """The state folder of the run with that name. It exists from `up` to `down`, even across a killed harness."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
            raise HarnessError(f"a run's name is up to 32 of a-z, 0-9 and -: not {name!r}")
        self.name = name
        self.folder = cache.home() / "state" / name
        self.logs = self.folder / "logs"
        self.node = self.folder / "node"
        self.pki = self.folder / "pki"
        self.ports_file = self.folder / "ports.json"
        self.processes = Processes(self.folder / "processes", self.logs)

    def unmount(self) -> None:
        """Unmounts everything below the folder."""
        mounts.unmount_below(self.folder)

    def remove(self) -> None:
        """Removes the folder, having made sure that nothing is mounted below it."""
        self.unmount()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def keep_logs(self) -> Path:
        """Copies the logs of a failed run to a place that `remove` spares, and says where."""
        kept = cache.home() / "failed" / self.name
        shutil.rmtree(kept, ignore_errors=True)
        if self.logs.exists():
            shutil.copytree(self.logs, kept)
        return kept

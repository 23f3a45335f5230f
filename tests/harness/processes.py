"""Daemons of one run: started in their own session, written down by id and start time, and stopped by exactly those.

A process id alone may have gone to a stranger since; together with the start time and the boot it names one process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.shell import HarnessError


@dataclass(frozen=True)
class Identity:
    """One process of one boot of this machine."""

    pid: int
    ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of the process that has this id now; None when there is none, or only its zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]), boot)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Sends the signal, unless the process is gone."""
        with suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the process at once."""
        self.send(signal.SIGKILL)


class Processes:
    """The daemons whose records lie in one folder; another Python process may look after them later."""

    def __init__(self, records: Path, logs: Path) -> None:
        self.records, self.logs = records, logs
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Starts a daemon that outlives this process; its output goes to `<name>.log`."""
        self.records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in command]
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._children.append(child)
        identity = Identity.of(child.pid)
        if identity:  # else it has ended already, and there is nothing to stop
            self._record(name).write_text(json.dumps(asdict(identity)))

    def alive(self, name: str) -> bool:
        """Whether the daemon of that name runs."""
        identity = self.identity(name)
        return identity is not None and identity.alive()

    def names(self) -> list[str]:
        """Every daemon that was started and not stopped, whether it still runs or not."""
        return sorted(record.stem for record in self.records.glob("*.json"))

    def stop(self, names: Iterable[str], grace: float = 3) -> None:
        """Ends these daemons, all at once: politely first, by force after `grace` seconds."""
        names = list(names)
        identities = [identity for name in names if (identity := self.identity(name))]
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            for identity in identities:
                identity.send(number)
            if self._gone(identities, patience):
                break
        else:
            raise HarnessError(f"cannot end {', '.join(names)}: see `ps` for the ids in {self.records}")
        for name in names:
            self._record(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """Ends this daemon by force, as a crash would; it can be started again under its name."""
        identity = self.identity(name)
        if identity is None or not identity.alive():
            raise HarnessError(f"{name} does not run, so it cannot be killed; {self.tail(name)}")
        identity.kill()
        if not self._gone([identity], 10):
            raise HarnessError(f"cannot kill {name}: see `ps` for process {identity.pid}")

    def log(self, name: str) -> Path:
        """Where the daemon's output goes."""
        return self.logs / f"{name}.log"

    def tail(self, name: str, lines: int = 20) -> str:
        """The last lines that the daemon wrote."""
        log = self.log(name)
        said = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
        return f"last lines of {log}:\n" + "\n".join(said or ["(it wrote nothing)"])

    def wait(self, what: str, ready: Callable[[], bool], needs: Sequence[str], timeout: float = 60) -> None:
        """Returns when `ready()` holds; says what the last of `needs` wrote when it does not, or when one has ended."""
        deadline = time.monotonic() + timeout
        while not ready():
            for name in needs:
                if not self.alive(name):
                    raise HarnessError(f"{name} ended before {what}; {self.tail(name)}")
            if time.monotonic() > deadline:
                raise HarnessError(f"not after {timeout:.0f} s: {what}; {self.tail(needs[-1])}")
            time.sleep(0.1)

    def _gone(self, identities: Sequence[Identity], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while True:
            for child in self._children:
                child.poll()  # a child of ours stays a zombie until it is asked
            if not any(identity.alive() for identity in identities):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def identity(self, name: str) -> Identity | None:
        """The process that was started under that name, whether it still runs or not."""
        record = self._record(name)
        if not record.exists():
            return None
        fields = json.loads(record.read_text())
        return Identity(fields["pid"], fields["ticks"], fields["boot"])

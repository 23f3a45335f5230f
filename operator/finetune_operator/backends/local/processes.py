"""Worker processes on this machine: started with a mark in their environment, and found again by it.

The mark survives what process ids do not: a new `qft`, a killed supervisor, ranks outside every process group. Whatever
carries a run's mark belongs to the run, down to the last grandchild.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MARK_ENV = "QFT_PROCESS"
"""Set to `<run uid>/<attempt>/<node>`, `<run uid>/push/<number>/` or `<run uid>/prepare`."""

_KILL_PAUSE_SECONDS = 0.02
_PROC = Path("/proc")
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


def start(command: list[str], folder: Path, environment: Mapping[str, str], mark: str) -> None:
    """Run `command` in the background, with its output and its exit code in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, str(_SUPERVISOR), str(folder), *command],
        env={**environment, MARK_ENV: mark},
        stdin=subprocess.DEVNULL,
        check=True,
    )


def marked(prefix: str) -> dict[int, str]:
    """Process id -> mark, of every living process whose mark begins with `prefix`."""
    marks = _marks_by_proc() if _PROC.is_dir() else _marks_by_ps()
    return {process_id: mark for process_id, mark in marks if mark.startswith(prefix)}


def terminate(process_id: int) -> None:
    """Ask a process to stop; no error if it has just ended."""
    _signalled(process_id, signal.SIGTERM)


def kill_all(prefix: str) -> None:
    """No process whose mark begins with `prefix` is left; a process that forks meanwhile is found in the next round."""
    while found := marked(prefix):
        for process_id in found:
            _signalled(process_id, signal.SIGKILL)
        time.sleep(_KILL_PAUSE_SECONDS)


def _signalled(process_id: int, number: int) -> None:
    try:
        os.kill(process_id, number)
    except ProcessLookupError:
        return


def _marks_by_proc() -> Iterator[tuple[int, str]]:
    wanted = f"{MARK_ENV}=".encode()
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes()  # empty for a zombie
        except OSError:
            continue  # it has just ended, or belongs to somebody else
        for entry in environment.split(b"\0"):
            if entry.startswith(wanted):
                yield int(folder.name), entry[len(wanted) :].decode()


def _marks_by_ps() -> Iterator[tuple[int, str]]:
    """For macOS, whose ps shows the environment of one's own processes after the command."""
    listed = subprocess.run(["ps", "-axEww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        process_id, _, rest = line.strip().partition(" ")
        for word in rest.split():
            if word.startswith(f"{MARK_ENV}="):
                yield int(process_id), word.removeprefix(f"{MARK_ENV}=")

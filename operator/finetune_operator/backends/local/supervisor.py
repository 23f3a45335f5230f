"""Watches over one worker process on this machine, so that its exit code is known even if nobody was there at its end.

    python supervisor.py FOLDER COMMAND...

Detaches itself, runs COMMAND with FOLDER/output.log as its output, passes SIGTERM on, and leaves FOLDER/exit.json. Run
by path and with the standard library alone: it must start in an instant, and without the operator's dependencies.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

OUTPUT_FILE = "output.log"
EXIT_FILE = "exit.json"
PID_FILE = "supervisor.pid"


def main(arguments: list[str]) -> None:
    """Start `arguments[1:]` in the background; returns at once in the caller's process."""
    folder, command = Path(arguments[0]), arguments[1:]
    if os.fork():
        return
    os.setsid()
    with open(folder / OUTPUT_FILE, "ab") as output:
        # the caller's own output must not stay open for as long as the worker lives: `qft run | tee` would hang on it
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    _write(folder / PID_FILE, str(os.getpid()))
    exit_code = _watched(command)
    # as a shell counts: 128 + the signal's number
    _write(folder / EXIT_FILE, json.dumps({"exit_code": exit_code if exit_code >= 0 else 128 - exit_code}))
    os._exit(0)


def _watched(command: list[str]) -> int:
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        if stops:
            worker.terminate()
            stops.clear()
        try:
            return worker.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue


def _write(file: Path, content: str) -> None:
    growing = file.with_suffix(".growing")
    growing.write_text(content)
    growing.replace(file)


if __name__ == "__main__":
    main(sys.argv[1:])

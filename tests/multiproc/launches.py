"""A launcher and its ranks as a pod would start them, and what can be seen of them from outside."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_contract import Outcome, Progress, RunConfig

SECONDS = 180
"""What anything may take."""


@contextmanager
def launched(run: RunConfig, **place: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """The launcher as a pod would start it, at `place` in PET_ variables; yields the process and the run's folder."""
    output = Path(run.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "run.json").write_text(run.model_dump_json())
    environment = os.environ | {
        "FINETUNE_TERMINATION_FILE": str(output / "outcome.json"),
        "FINETUNE_PROGRESS_PORT_FILE": str(output / "port"),
        "OMP_NUM_THREADS": "1",
        **place,
    }
    command = [sys.executable, "-m", "finetune_trainer.launch", str(output / "run.json")]
    with open(output / "log", "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process, output
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(SECONDS)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ended(process: "subprocess.Popen[bytes]", output: Path, name: str = "outcome.json") -> Outcome:
    """The outcome in the file `name`, once the launcher has ended with its exit code."""
    code = process.wait(SECONDS)
    outcome = Outcome.model_validate_json((output / name).read_text())
    assert code == outcome.exit_code, (output / "log").read_text()[-3000:]
    return outcome


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[bytes]", every: float = 0.05) -> Any:
    """The first true answer; fails when the launcher ends before."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        assert process.poll() is None, "the launcher ended too early"
        time.sleep(every)
    raise AssertionError("waited in vain")


def served(output: Path, path: str) -> str | None:
    """What rank 0 answers, if it does yet."""
    try:
        port = int((output / "port").read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, ValueError):
        return None


def progress(output: Path) -> Progress | None:
    """Rank 0's progress, if it serves yet."""
    text = served(output, "/progress")
    return Progress.model_validate_json(text) if text else None


def rank_process(launcher: int, rank: int) -> int | None:
    """The process of a rank, if there is one yet."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        if f"PPid:\t{launcher}\n" in status and f"RANK={rank}".encode() in environment:
            return int(process.name)
    return None


def is_alive(process: int) -> bool:
    """Whether it runs, or is stopped."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()

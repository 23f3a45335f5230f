"""Worker processes: their ends are known, and none is lost, whoever dies first."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_operator.backends.local import processes
from finetune_operator.backends.local.supervisor import EXIT_FILE, OUTPUT_FILE, PID_FILE

WAIT_FOR_SIGTERM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("up", flush=True)
signal.pause()
"""
GRANDCHILD = """
import subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""
START_SLEEP = """
import os, sys
from pathlib import Path
from finetune_operator.backends.local import processes
processes.start(["sleep", "600"], Path(sys.argv[1]), os.environ, sys.argv[2])
"""


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"{uuid.uuid4()}/1/0"
    yield mark
    processes.kill_all(mark)


def started(code: str, folder: Path, mark: str) -> None:
    processes.start([sys.executable, "-c", code], folder, os.environ, mark)


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exit_code(folder: Path) -> int:
    wait_until((folder / EXIT_FILE).exists)
    code: int = json.loads((folder / EXIT_FILE).read_text())["exit_code"]
    return code


def says_up(folder: Path) -> bool:
    return (folder / OUTPUT_FILE).exists() and "up" in (folder / OUTPUT_FILE).read_text()


def test_output_and_exit_code_are_kept(tmp_path: Path, mark: str) -> None:
    started("print('hello'); raise SystemExit(64)", tmp_path, mark)
    assert exit_code(tmp_path) == 64
    assert (tmp_path / OUTPUT_FILE).read_text() == "hello\n"
    wait_until(lambda: not processes.marked(mark))


def test_the_callers_own_output_is_not_held_open(tmp_path: Path, mark: str) -> None:
    subprocess.run([sys.executable, "-c", START_SLEEP, tmp_path, mark], capture_output=True, timeout=60, check=True)
    assert processes.marked(mark)


def test_a_death_by_signal_is_told_as_a_shell_tells_it(tmp_path: Path, mark: str) -> None:
    started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path, mark)
    assert exit_code(tmp_path) == 128 + signal.SIGKILL


def test_sigterm_reaches_the_worker(tmp_path: Path, mark: str) -> None:
    started(WAIT_FOR_SIGTERM, tmp_path, mark)
    wait_until(lambda: says_up(tmp_path))
    processes.terminate(int((tmp_path / PID_FILE).read_text()))
    assert exit_code(tmp_path) == 75


def test_a_grandchild_outside_every_process_group_is_found_after_its_parents_are_gone(
    tmp_path: Path, mark: str
) -> None:
    started(GRANDCHILD, tmp_path, mark)
    wait_until(lambda: says_up(tmp_path))
    assert len(processes.marked(mark)) == 3
    supervisor = int((tmp_path / PID_FILE).read_text())
    for process_id in sorted(processes.marked(mark))[:2]:
        os.kill(process_id, signal.SIGKILL)
    wait_until(lambda: len(processes.marked(mark)) == 1)
    assert supervisor not in processes.marked(mark)
    processes.kill_all(mark)
    assert processes.marked(mark) == {}

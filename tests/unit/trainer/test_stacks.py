"""Who stands elsewhere than the others, by what the interpreter writes of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_contract import ExitCode, Stage
from finetune_contract.paths import ATTEMPTS, STACKS
from finetune_trainer.hang import outcome_of_hang
from finetune_trainer.stacks import Account, account_text, apart, comparison, process_state, read_account
from finetune_trainer.watch import Stand
from unit.trackers.runs import tracked

STACK = """Thread 0x00007f01 (most recent call first):
  File "/lib/python3.12/threading.py", line 359 in wait
  File "/app/finetune_trainer/trackers/thread.py", line 60 in run
  File "/lib/python3.12/threading.py", line 1032 in _bootstrap

Current thread 0x00007f02 (most recent call first):
  File "{file}", line 170 in wait
  File "/app/finetune_trainer/{own}", line 12 in doing
  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
"""


def account(rank: int, own: str = "distributed.py", file: str = "/torch/distributed/distributed_c10d.py") -> Account:
    found = read_account(account_text(rank, f"host-{rank}", "in step 13", STACK.format(file=file, own=own), "S"))
    assert found is not None
    return found


def silent(rank: int, state: str | None = "T") -> Account:
    found = read_account(account_text(rank, f"host-{rank}", "in step 13", "", state))
    assert found is not None
    return found


WAITING = [account(rank) for rank in range(3)]
LOADING = account(3, "data/loader.py", "/lib/python3.12/pathlib.py")


def test_the_main_thread_s_place_is_our_own_innermost_line() -> None:
    assert LOADING.place == "data/loader.py:12 (doing, which called wait)"
    assert (LOADING.rank, LOADING.host, LOADING.waits, LOADING.silence) == (3, "host-3", False, None)
    assert WAITING[0].waits


@pytest.mark.parametrize(
    ("accounts", "ranks"),
    [
        ([*WAITING, LOADING], [3]),
        ([WAITING[0], LOADING], [3]),
        ([*WAITING, silent(3)], [3]),
        ([*WAITING, LOADING, silent(4)], [4]),
        ([*WAITING, account(3, "readback.py", "torch.py")], [3]),
        (WAITING, []),
        ([LOADING], []),
        ([WAITING[0], account(1, "readback.py", "torch.py")], []),
        ([silent(0), silent(1)], []),
    ],
    ids=[
        "one loads", "one of two loads", "one is silent", "silence comes first", "one is in another collective",
        "all wait", "one alone", "two in two collectives", "nobody runs",
    ],
)  # fmt: skip
def test_who_stands_apart(accounts: list[Account], ranks: list[int]) -> None:
    assert [each.rank for each in apart(accounts)] == ranks


def test_a_comparison_says_who_and_where() -> None:
    place = "distributed.py:12 (doing, which called wait)"
    assert comparison([*WAITING, LOADING]) == f"rank 3 on host-3 is in {LOADING.place}; the others wait in {place}"
    assert comparison([WAITING[0], silent(1)]) == (
        f"rank 1 on host-1 gave no stack: it is stopped (SIGSTOP, or a frozen container); rank 0 waits in {place}"
    )
    assert comparison(WAITING) == f"every rank is in {place}"
    assert comparison([silent(0, None), silent(1)]) == "no rank gave a stack: it did not answer"
    assert "waits in the kernel" in comparison([silent(0, "D"), *WAITING[1:]])


def test_a_file_that_is_still_written_is_no_account() -> None:
    whole = account_text(0, "host", "in step 13", STACK.format(file="x.py", own="y.py"), "S")
    assert read_account(whole[:-1]) is None
    assert read_account("") is None


def test_the_outcome_names_phase_limit_rank_and_stacks(tmp_path: Path) -> None:
    config = tracked(tmp_path).model_copy(update={"hang_timeout_seconds": 60})
    stands = [
        Stand(rank=rank, stage=Stage.TRAINING, step=12, step_seconds=7.0, still_seconds=still, patience_seconds=70.0)
        for rank, still in ((0, 69.0), (1, 71.0))
    ]
    outcome = outcome_of_hang(config, stands, [WAITING[0], silent(1)], is_kept=True)
    failure = outcome.failure
    assert failure is not None
    assert (outcome.exit_code, failure.reason, failure.rank, outcome.step) == (ExitCode.HANG, "Hang", 1, 12)
    assert failure.message.startswith(
        "step 13: rank 1 has not moved for 71 seconds, where 70 are allowed (recovery.hangTimeoutSeconds is 60); "
        "rank 1 on host-1 gave no stack"
    )
    assert failure.stacks_dir == str(tmp_path / ATTEMPTS / "1" / STACKS)
    lost = outcome_of_hang(config, stands, WAITING, is_kept=False).failure
    assert lost is not None
    assert (lost.stacks_dir, lost.rank) == (None, None)
    assert lost.message.endswith("the stacks are in the pod's log")


PROGRAM = """
import pathlib, sys, threading
from finetune_trainer.stacks import answer_requests
answer_requests(pathlib.Path(sys.argv[1]))
lock = threading.Lock()
lock.acquire()
print("ready", flush=True)
def stuck():
    lock.acquire()  # no signal handler of Python's would ever run
stuck()
"""


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that waits for a lock that nobody gives back."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "stacks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_a_process_that_is_stuck_writes_where(tmp_path: Path, stuck: "subprocess.Popen[bytes]") -> None:
    os.kill(stuck.pid, signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while " in stuck" not in (tmp_path / "stacks").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert " in stuck" in (tmp_path / "stacks").read_text()
    os.kill(stuck.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, stuck.pid, os.WSTOPPED)
    assert process_state(stuck.pid) == "T"

"""The real thing: launcher, ranks, signals, exit codes. Each case costs a real start of two ranks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from finetune_contract import ExitCode, Outcome, Progress, RunConfig, Stage
from finetune_trainer.__main__ import OUTCOMES_DIR_ENV
from finetune_trainer.checkpoint import complete_checkpoints, damage
from multiproc.cases import FULL, config, losses

SECONDS = 180
TWO_RANKS = (1, 2, 2)
GRACE_SECONDS = 6


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


def ended(process: "subprocess.Popen[bytes]", output: Path) -> Outcome:
    """The outcome, once the launcher has ended with its exit code."""
    code = process.wait(SECONDS)
    outcome = Outcome.model_validate_json((output / "outcome.json").read_text())
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


def test_preempted_twice_over_and_continued(folder: Path, model: Path, tokens: Path) -> None:
    run = config(folder / "launch", model, tokens, batch=TWO_RANKS, epochs=200, max_steps=2000)
    with launched(run) as (process, output):
        wait_for(lambda: (now := progress(output)) and now.step >= 3, process)
        metrics = served(output, "/metrics") or ""
        assert "finetune_loss " in metrics
        assert "finetune_total_steps 1000.0" in metrics
        assert served(output, "/healthz") == "ok\n"
        process.send_signal(signal.SIGTERM)
        threading.Timer(0.02, process.send_signal, [signal.SIGTERM]).start()
        outcome = ended(process, output)
    assert outcome.exit_code is ExitCode.PREEMPTED
    assert outcome.checkpoint is not None
    assert outcome.step == outcome.checkpoint.step
    assert max(losses(output)) == outcome.step
    assert damage(Path(outcome.checkpoint.path)) is None

    again = run.model_copy(update={"attempt": 2})
    with launched(again) as (process, output):
        last = outcome.checkpoint.step
        resumed = wait_for(lambda: (now := progress(output)) and now.step > last and now, process)
        assert resumed.resumed_from_step == last
        assert resumed.stage in set(Stage)
        process.send_signal(signal.SIGINT)
        assert ended(process, output).exit_code is ExitCode.PREEMPTED
    assert min(losses(output, 2)) == outcome.step + 1


def test_a_rank_killed_while_saving_leaves_the_checkpoint_before(folder: Path, model: Path, tokens: Path) -> None:
    run = config(
        folder / "killed", model, tokens, batch=TWO_RANKS, method=FULL, epochs=200, max_steps=900,
        checkpoint={"every_steps": 2, "keep": 2},
    )  # fmt: skip
    with launched(run) as (process, output):
        checkpoints = output / "checkpoints"
        wait_for(lambda: complete_checkpoints(checkpoints), process)
        wait_for(lambda: list(checkpoints.glob(".growing-*")), process, every=0.001)
        victim = _rank_process(process.pid, 0)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        outcome = ended(process, output)
    assert outcome.exit_code is ExitCode.INFRASTRUCTURE
    assert outcome.failure is not None
    assert outcome.failure.reason == "RankKilled"
    assert outcome.failure.rank == 0
    assert "SIGKILL" in outcome.failure.message
    found = complete_checkpoints(checkpoints)
    assert found
    assert [damage(each) for each in found] == [None] * len(found)


def test_a_loss_that_is_not_a_number_is_the_outcome(folder: Path, model: Path, tokens: Path) -> None:
    stability = {"non_finite": {"skip_steps": 0, "rollbacks": 0}}
    run = config(
        folder / "nan", model, tokens, batch=TWO_RANKS, optimizer={"peak_learning_rate": 1e38}, stability=stability
    )
    with launched(run) as (process, output):
        outcome = ended(process, output)
    assert outcome.exit_code is ExitCode.NOT_A_NUMBER
    assert outcome.failure is not None
    assert outcome.failure.step is not None
    assert outcome.failure.reason == "NotANumber"
    assert complete_checkpoints(output / "checkpoints") == []


def test_a_user_error_is_named_by_every_rank_and_the_launcher(folder: Path, model: Path, tokens: Path) -> None:
    method = {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_porj"]}
    run = config(folder / "wrong", model, tokens, batch=TWO_RANKS, method=method)
    with launched(run) as (process, output):
        outcome = ended(process, output)
    assert outcome.exit_code is ExitCode.USER_ERROR
    assert outcome.failure is not None
    assert outcome.failure.reason == "TargetNotFound"
    assert "q_porj" in outcome.failure.message


def test_ranks_that_do_not_answer_are_killed_before_the_grace_is_over(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    run = config(folder / "deaf", small_model, small_tokens, batch=TWO_RANKS, grace_seconds=GRACE_SECONDS)
    with launched(run) as (process, output):
        ranks = [wait_for(partial(_named_rank, process.pid, rank), process) for rank in (0, 1)]
        for number, rank in enumerate(ranks):
            os.kill(rank, signal.SIGSTOP)
            _outcomes(rank).joinpath(f"rank-{number}.met").touch()  # else there would be nothing to wait for
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        # what is said again in the middle of the grace does not lengthen it
        again = threading.Timer(GRACE_SECONDS / 2, process.send_signal, [signal.SIGTERM])
        again.start()
        outcome = ended(process, output)
        seconds = time.monotonic() - began
        again.join()
    assert outcome == Outcome(exit_code=ExitCode.PREEMPTED)
    assert GRACE_SECONDS / 2 < seconds < GRACE_SECONDS
    assert [rank for rank in ranks if _is_alive(rank)] == []
    assert f"did not end in the {GRACE_SECONDS} seconds of grace" in (output / "log").read_text()


def test_a_stop_while_another_node_is_awaited_is_heeded_at_once(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    run = config(folder / "alone", small_model, small_tokens, batch=TWO_RANKS)
    second = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": "1", "PET_MASTER_PORT": "9"}
    with launched(run, **second) as (process, output):
        wait_for(partial(_named_rank, process.pid, 1), process)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert ended(process, output) == Outcome(exit_code=ExitCode.PREEMPTED)
    assert time.monotonic() - began < run.grace_seconds / 2


def _named_rank(launcher: int, rank: int) -> int | None:
    """A rank's process, once it has told its launcher of itself."""
    process = _rank_process(launcher, rank)
    if process is None:
        return None
    file = _outcomes(process) / f"rank-{rank}.pid"
    return process if file.exists() and file.read_text() == str(process) else None


def _outcomes(process: int) -> Path:
    """Where a rank tells its launcher of itself."""
    environment = dict(line.partition("=")[::2] for line in Path(f"/proc/{process}/environ").read_text().split("\0"))
    return Path(environment[OUTCOMES_DIR_ENV])


def _is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def _rank_process(launcher: int, rank: int) -> int | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        if f"PPid:\t{launcher}\n" in status and f"RANK={rank}".encode() in environment:
            return int(process.name)
    return None


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]

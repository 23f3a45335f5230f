"""Ranks that hang for real: one that is stopped, and one whose volume does not answer; and what only takes long."""

import os
import signal
import threading
import time
from pathlib import Path

from finetune_contract import ExitCode, RunConfig, patience_seconds
from finetune_contract.paths import ATTEMPTS, LOSSES_FILE, STACKS
from finetune_trainer import pulse
from finetune_trainer.distributed import World
from finetune_trainer.stopping import unless_stopped
from multiproc.cases import NeverStop, config
from multiproc.launches import ended, free_port, is_alive, launched, progress, rank_process, wait_for
from multiproc.ranks import on_ranks

FLOOR = 4
"""Seconds that a short step may take."""
MARGIN = 12
"""Seconds for the ranks' stacks and the end of everything."""


def run_of(output: Path, model: Path, tokens: Path) -> RunConfig:
    return config(
        output, model, tokens, batch=(1, 2, 2), epochs=20_000, max_steps=100_000, hang_timeout_seconds=FLOOR,
        checkpoint={"every_steps": 50_000, "keep": 1},
    )  # fmt: skip


def test_a_rank_that_is_stopped_is_named_on_every_node_and_a_long_first_step_is_not(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    run = run_of(folder / "stopped", small_model, small_tokens)
    nodes = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_PORT": str(free_port())}
    other = {"PET_NODE_RANK": "1", "FINETUNE_TERMINATION_FILE": str(Path(run.output_dir) / "other.json")}
    with launched(run, **nodes, PET_NODE_RANK="0") as (first, output), launched(run, **nodes | other) as (second, _):
        wait_for(lambda: progress(output), first)
        stopped = wait_for(lambda: rank_process(second.pid, 1), second)
        os.kill(stopped, signal.SIGSTOP)
        now = progress(output)
        assert now is not None
        assert now.step_seconds is None, "no step is done"
        wait_for(lambda: (now := progress(output)) and now.still_seconds > 1.3 * FLOOR, first)
        os.kill(stopped, signal.SIGCONT)
        last = wait_for(lambda: (now := progress(output)) and now.step >= 10 and now, first)
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        outcomes = [ended(first, output), ended(second, output, "other.json")]
        seconds = time.monotonic() - began
    limit = patience_seconds(last.stage, last.step_seconds, FLOOR)
    assert 0.9 * limit < seconds < 1.5 * limit + MARGIN
    assert not is_alive(stopped)
    stacks = output / ATTEMPTS / "1" / STACKS
    for rank, outcome in enumerate(outcomes):
        failure = outcome.failure
        assert failure is not None
        assert (outcome.exit_code, failure.reason, failure.rank) == (ExitCode.HANG, "Hang", 1), failure
        assert failure.step is not None
        assert failure.step >= 10
        assert failure.message.startswith(f"step {failure.step + 1}: rank {rank} has not moved for ")
        assert "gave no stack: it is stopped (SIGSTOP, or a frozen container); rank 0 waits in " in failure.message
        assert failure.stacks_dir == str(stacks)
    assert "most recent call first" in (stacks / "rank-0.txt").read_text()
    assert "no stack: it is stopped" in (stacks / "rank-1.txt").read_text()


def test_a_rank_whose_volume_does_not_answer_is_told_from_those_that_wait_for_it(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    run = run_of(folder / "volume", small_model, small_tokens)
    losses = Path(run.output_dir) / ATTEMPTS / "1" / LOSSES_FILE
    losses.parent.mkdir(parents=True)
    os.mkfifo(losses)  # who opens it waits until somebody reads
    reader = threading.Thread(target=_read, args=(losses, 10))
    reader.start()
    with launched(run) as (process, output):
        outcome = ended(process, output)
    reader.join()
    failure = outcome.failure
    assert failure is not None
    assert (outcome.exit_code, failure.rank) == (ExitCode.HANG, 0), failure
    assert "is in reporting.py:" in failure.message
    assert "; rank 1 waits in " in failure.message
    for rank in (0, 1):
        text = (output / ATTEMPTS / "1" / STACKS / f"rank-{rank}.txt").read_text()
        assert text.startswith(f"rank {rank} on ")
        assert "most recent call first" in text


def _read(fifo: Path, lines: int) -> None:
    for _ in range(lines):
        with open(fifo, encoding="utf-8") as file:
            file.readline()


def test_what_one_rank_writes_is_a_sign_of_life_for_all_that_wait_for_it(folder: Path) -> None:
    seconds = 1.5
    working = on_ranks(2, _longest_silence, seconds, True, log=folder / "slow")
    idle = on_ranks(2, _longest_silence, seconds, False, log=folder / "stuck")
    assert max(working) < seconds / 2, "a slow save"
    assert min(idle) > 0.9 * seconds, "waiting alone is no sign"


def _longest_silence(world: World, seconds: float, is_working: bool) -> float:
    """Of this rank, while rank 0 works and the others wait for it."""
    until, longest, clock = time.monotonic() + seconds, 0.0, threading.Event()

    def work() -> None:
        nonlocal longest
        while time.monotonic() < until:
            longest = max(longest, pulse.own.still_seconds)
            if is_working and world.is_main:
                pulse.own.beat()
            clock.wait(0.1)

    pulse.own.beat()
    unless_stopped(world, NeverStop(), work)
    return longest

"""Whole runs whose disk is watched: a save that training waits for, and a SIGTERM in the middle of the export."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer import recipe, saving
from finetune_trainer.__main__ import StopFlag
from finetune_trainer.distributed import World
from finetune_trainer.running import Position
from finetune_trainer.stopping import Task, exit_seconds
from multiproc.cases import LORA, NeverStop, config, losses, train
from multiproc.ranks import on_ranks
from support.checkpoints import FaultyDisk, Moment, Phase, PowerCutError

SECONDS = 30
STEPS = 6
GRACE_SECONDS = 20
ARTIFACTS = ("adapter", "merged")


def contents(output: Path, *folders: str) -> dict[str, bytes]:
    """Every file below these folders of a run's output, by its path; places are the same in all of them."""
    files = (file for folder in folders for file in sorted((output / folder).rglob("*")) if file.is_file())
    return {str(file.relative_to(output)): file.read_bytes().replace(str(output).encode(), b"OUTPUT") for file in files}


def _is_saving() -> bool:
    """Whether the training, which the main thread does, waits for a save to begin or to end."""
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None and frame.f_code is not saving.save.__code__:
        frame = frame.f_back
    return frame is not None


def _watched(world: World, run: RunConfig) -> list[tuple[str, bool]]:
    """A run; whether training went on before each checkpoint got its name, on rank 0.

    The disk gives it time to do so, as much as it takes where it should.
    """
    seen = list[tuple[str, bool]]()
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)

    def act(moment: Moment) -> None:
        if (moment.verb, moment.phase) == ("rename", Phase.AFTER) and moment.name.startswith("step-"):
            deadline = time.monotonic() + (SECONDS if run.checkpoint.asynchronous else 0.3)
            while _is_saving() and time.monotonic() < deadline:
                threading.Event().wait(0.002)
            seen.append((moment.name, not _is_saving()))

    assert recipe.run(run, world, NeverStop(), Position(), FaultyDisk(act)).exit_code is ExitCode.DONE
    return seen


def test_training_waits_for_a_save_or_goes_on_and_leaves_the_same(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    outputs = {asynchronous: folder / f"asynchronous-{asynchronous}" for asynchronous in (True, False)}
    for asynchronous, output in outputs.items():
        run = config(
            output, small_model, small_tokens, batch=(1, 2, 2), method=LORA | {"dropout": 0.2}, max_steps=STEPS,
            checkpoint={"every_steps": 2, "keep": 9, "asynchronous": asynchronous},
        )  # fmt: skip
        went_on = on_ranks(2, _watched, run, log=output)[0]
        assert went_on == [(f"step-{step:08d}", asynchronous) for step in (2, 4, 6)]
    assert losses(outputs[True]) == losses(outputs[False])
    beside, waited = (contents(output, "checkpoints", "adapter") for output in outputs.values())
    assert beside.keys() == waited.keys()
    assert [name for name in beside if beside[name] != waited[name]] == []


@dataclass(frozen=True)
class Interruption:
    """A moment of the export: verb of the disk, file or folder, and where in it."""

    verb: str
    name: str
    phase: Phase
    is_held: bool = True
    """Whether the disk never comes to an end of it; else it goes on as long as its process does."""

    def __str__(self) -> str:
        return "-".join([self.phase, self.verb, self.name, "held" if self.is_held else "going-on"])


INTERRUPTIONS = (
    Interruption("make_folder", ".growing-adapter", Phase.BEFORE, is_held=False),
    Interruption("write_tensors", "adapter_model.safetensors", Phase.MIDDLE),
    Interruption("rename", "adapter", Phase.AFTER),
    Interruption("write_tensors", "part-1", Phase.MIDDLE),
    Interruption("rename", "merged", Phase.BEFORE),
    Interruption("rename", "merged", Phase.AFTER, is_held=False),
)


@contextmanager
def _answering() -> Iterator[StopFlag]:
    """A process's own answer to signals, until the end of the block."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield StopFlag()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _interrupted(world: World, run: RunConfig, at: Interruption) -> tuple[Outcome, float]:
    """An attempt whose rank 0 gets SIGTERM in its export; how it ended, and how many seconds after that."""
    ended, told_at = threading.Event(), list[float]()

    def act(moment: Moment) -> None:
        if (moment.verb, moment.name, moment.phase) == (at.verb, at.name, at.phase):
            told_at.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
            if at.is_held:
                ended.wait(SECONDS)
        if ended.is_set():
            raise PowerCutError

    with _answering() as stop:
        outcome = recipe.run(run, world, stop, Position(), FaultyDisk(act))
        seconds = time.monotonic() - told_at[0] if told_at else 0.0
        ended.set()
    for thread in threading.enumerate():
        if isinstance(thread, Task):
            thread.join(SECONDS)
    return outcome, seconds


def _interrupted_and_continued(
    world: World, unbroken: RunConfig, runs: dict[Interruption, RunConfig]
) -> dict[Interruption, tuple[Outcome, float, Outcome]]:
    train(world, unbroken)
    found = {}
    for at, run in runs.items():
        if world.is_main:
            shutil.copytree(unbroken.output_dir, run.output_dir, ignore=shutil.ignore_patterns(*ARTIFACTS))
        outcome, seconds = _interrupted(world, run.model_copy(update={"attempt": 2}), at)
        found[at] = (outcome, seconds, train(world, run.model_copy(update={"attempt": 3})))
    return found


@pytest.fixture(scope="module")
def interrupted(
    folder: Path, small_model: Path, small_tokens: Path
) -> dict[Interruption, tuple[Outcome, float, Outcome]]:
    """Runs that only have their exports to do are told to stop in the middle of it, and go on in the next attempt."""

    def run(name: object) -> RunConfig:
        return config(
            folder / f"export-{name}", small_model, small_tokens, batch=(1, 2, 2), max_steps=4, merge_adapter=True,
            grace_seconds=GRACE_SECONDS,
        )  # fmt: skip

    runs = {at: run(at) for at in INTERRUPTIONS}
    return on_ranks(2, _interrupted_and_continued, run("unbroken"), runs, log=folder / "export")[0]


@pytest.mark.parametrize("at", INTERRUPTIONS, ids=str)
def test_an_export_that_was_told_to_stop_is_done_by_the_next_attempt(
    interrupted: dict[Interruption, tuple[Outcome, float, Outcome]], at: Interruption, folder: Path
) -> None:
    first, seconds, second = interrupted[at]
    assert first.exit_code is ExitCode.PREEMPTED or (not at.is_held and first.exit_code is ExitCode.DONE)
    assert 0 < seconds < GRACE_SECONDS - exit_seconds(GRACE_SECONDS)
    assert first.checkpoint is not None
    assert first.checkpoint.step == 4
    assert second.exit_code is ExitCode.DONE
    output = folder / f"export-{at}"
    expected, made = (contents(each, *ARTIFACTS) for each in (folder / "export-unbroken", output))
    assert expected.keys() == made.keys()
    assert [name for name in expected if expected[name] != made[name]] == []
    assert not list(output.glob(".*"))

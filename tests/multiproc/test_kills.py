"""The kill matrix: SIGKILL at every named point of saving and in the middle of training, and the curve is unbroken.

The disk that checkpoints are written to kills its own process at a point; a rank's end is the end of all of them, as
in a pod. Then a second attempt runs to the end. What is compared bit for bit with a run that nobody killed: every
loss of both attempts, and the last weights and moments.

A part that covers every point and every strategy runs by default. The whole matrix, some minutes long, is

    FINETUNE_KILLS=whole python -m pytest tests/multiproc/test_kills.py
"""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer import recipe, running
from finetune_trainer.checkpoint import complete_checkpoints, damage
from finetune_trainer.checkpoint.layout import step_of
from finetune_trainer.distributed import World
from finetune_trainer.stopping import Stop
from multiproc.cases import LORA, NeverStop, config, losses, train, trained_tensors
from multiproc.ranks import RankFailedError, on_ranks
from support.checkpoints import FaultyDisk, Moment, Phase

STRATEGIES: dict[str, dict[str, Any]] = {
    "DDP": {"type": "DDP"},
    "FSDP": {"type": "FSDP"},
    "ZeRO-2": {"type": "DeepSpeed", "stage": 2},
    "ZeRO-3": {"type": "DeepSpeed", "stage": 3},
}
STEPS, EVERY, KILLED_SAVE = 6, 2, 4
"""Steps of a run, between two saves, and of the save that somebody is killed in."""

POINTS: dict[str, tuple[str, str, Phase]] = {
    "before the folder": ("make_folder", ".growing-", Phase.BEFORE),
    "after the folder": ("make_folder", ".growing-", Phase.AFTER),
    "before tensors": ("write_tensors", "trained-", Phase.BEFORE),
    "middle of tensors": ("write_tensors", "trained-", Phase.MIDDLE),
    "after tensors": ("write_tensors", "trained-", Phase.AFTER),
    "middle of state": ("write", "trainer_state", Phase.MIDDLE),
    "before COMPLETE": ("write", "COMPLETE", Phase.BEFORE),
    "middle of COMPLETE": ("write", "COMPLETE", Phase.MIDDLE),
    "after COMPLETE": ("write", "COMPLETE", Phase.AFTER),
    "before its name": ("rename", "step-", Phase.BEFORE),
    "after its name": ("rename", "step-", Phase.AFTER),
    "before the old one goes": ("remove", "step-", Phase.BEFORE),
    "middle of the old one": ("remove", "step-", Phase.MIDDLE),
    "after the old one": ("remove", "step-", Phase.AFTER),
}
"""Name -> verb of the disk, how its file or folder begins, and where in it."""
NAMED = list(POINTS)[list(POINTS).index("after its name") :]
"""From here on the new checkpoint is the newest."""


@dataclass(frozen=True)
class Kill:
    """Who dies where."""

    strategy: str
    point: str
    """Of POINTS, or the number of a question in training."""
    victim: int | None
    """A rank; None: all of them at once."""

    def __str__(self) -> str:
        return f"{self.strategy}-{self.point.replace(' ', '_')}-{'all' if self.victim is None else self.victim}"


def whole() -> list[Kill]:
    """Every strategy, point and victim, and five places in training for each strategy."""
    kills = [Kill(strategy, point, victim) for strategy in STRATEGIES for point in POINTS for victim in (0, None)]
    kills += [Kill(strategy, point, 1) for strategy in STRATEGIES for point in POINTS if "tensors" in point]
    places = random.Random(7).sample(range(1, STEPS * 2), 5)  # noqa: S311 - no secret
    return kills + [
        Kill(strategy, f"question {place}", victim)
        for strategy in STRATEGIES
        for place in places
        for victim in (1, None)
    ]


def covering() -> list[Kill]:
    """Every part of a save, every strategy and every kind of victim; the disk's unit tests cover every moment."""
    kills = [
        Kill("DDP", "before tensors", 0),
        Kill("DDP", "middle of tensors", 1),
        Kill("DDP", "after tensors", None),
        Kill("DDP", "middle of COMPLETE", 0),
        Kill("DDP", "before its name", None),
        Kill("DDP", "after its name", 0),
        Kill("DDP", "middle of the old one", 0),
        Kill("DDP", "question 9", 1),
    ]
    return [
        *kills,
        Kill("FSDP", "after tensors", 1),
        Kill("ZeRO-2", "before its name", 0),
        Kill("ZeRO-3", "question 7", None),
    ]


KILLS = whole() if os.environ.get("FINETUNE_KILLS") == "whole" else covering()


@dataclass
class KilledAt:
    """Never told to stop, but killed when it asks for the n-th time in training."""

    questions: int
    output: Path
    victim: int | None
    seconds: float = 0.0

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        self.questions -= 1
        if self.questions == 0:
            kill(self.output, self.victim)
        return False


def kill(output: Path, victim: int | None) -> None:
    """SIGKILL for this rank or for all of them; this one comes last."""
    if victim is None:
        others = [int(file.read_text()) for file in output.glob("*.pid")]
        for process in others:
            if process != os.getpid():
                os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(world: World, run: RunConfig, death: Kill) -> Outcome:
    """The whole recipe, on a disk or with questions that end it."""
    output = Path(run.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{world.rank}.pid").write_text(str(os.getpid()))
    is_victim = world.rank == (death.victim or 0)
    stop: Stop = NeverStop()
    if death.point not in POINTS and is_victim:
        stop = KilledAt(int(death.point.split()[1]), output, death.victim)

    def act(moment: Moment) -> None:
        if death.point in POINTS and is_victim and is_at(moment, death.point):
            kill(output, death.victim)

    return recipe.run(run, world, stop, running.Position(), FaultyDisk(act))


def is_at(moment: Moment, point: str) -> bool:
    """Whether a moment is a point of the save that somebody is killed in."""
    verb, name, phase = POINTS[point]
    step = KILLED_SAVE - EVERY if verb == "remove" else KILLED_SAVE
    return (
        (moment.verb, moment.phase) == (verb, phase)
        and moment.name.startswith(name)
        and f"step-{step:08d}" in f"{moment.parent}/{moment.name}"
    )


@pytest.fixture(scope="module")
def unbroken(folder: Path, small_model: Path, small_tokens: Path) -> dict[str, RunConfig]:
    """A run of each strategy that nobody kills."""
    runs = {name: _config(folder / f"kills-{name}", small_model, small_tokens, name) for name in STRATEGIES}
    on_ranks(2, _all, list(runs.values()), log=folder / "kills-unbroken")
    return runs


def _all(world: World, runs: list[RunConfig]) -> None:
    for run in runs:
        train(world, run)


def _config(output: Path, model: Path, tokens: Path, strategy: str) -> RunConfig:
    return config(
        output, model, tokens, parallelism=STRATEGIES[strategy], batch=(1, 2, 2), max_steps=STEPS,
        method=LORA | {"dropout": 0.2}, checkpoint={"every_steps": EVERY, "keep": 1}, stability={"divergence": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[tuple[Kill, int, int]]]:
    """What the kills came to: whose, steps done before, step gone on from; printed at the end."""
    rows: list[tuple[Kill, int, int]] = []
    yield rows
    terminal = request.config.get_terminal_writer()
    terminal.line(f"\n{'strategy':<9}{'killed':<25}{'ranks':<7}{'steps before':<14}{'went on from':<14}losses, state")
    for kill, done, resumed in rows:
        who = "all" if kill.victim is None else str(kill.victim)
        terminal.line(f"{kill.strategy:<9}{kill.point:<25}{who:<7}{done:<14}{resumed:<14}equal")


@pytest.mark.parametrize("death", KILLS, ids=str)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    death: Kill, unbroken: dict[str, RunConfig], table: list[tuple[Kill, int, int]], folder: Path
) -> None:
    whole, output = Path(unbroken[death.strategy].output_dir), folder / f"kill-{death}"
    run = unbroken[death.strategy].model_copy(update={"output_dir": str(output)})
    with pytest.raises(RankFailedError):
        on_ranks(2, train_and_die, run, death, log=output)
    found = complete_checkpoints(output / "checkpoints")
    assert [damage(each) for each in found] == [None] * len(found), "what is complete is whole"
    if death.point in POINTS:
        assert step_of(found[0]) == (KILLED_SAVE if death.point in NAMED else KILLED_SAVE - EVERY)
    outcome = on_ranks(2, train, run.model_copy(update={"attempt": 2}), log=output)[0]
    assert outcome.exit_code is ExitCode.DONE
    before, after = losses(output, 1), losses(output, 2)
    resumed = min(after) - 1
    assert resumed == (step_of(found[0]) if found else 0)
    assert {step: before[step] for step in before if step <= resumed} | after == losses(whole)
    assert before.items() <= losses(whole).items()
    expected, trained = trained_tensors(whole, STEPS), trained_tensors(output, STEPS)
    assert expected.keys() == trained.keys()
    assert all(torch.equal(expected[name], trained[name]) for name in expected)
    assert [path.name for path in (output / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]
    table.append((death, max(before, default=0), resumed))

"""A run goes on with another number of ranks and another strategy: the same steps, taken up bit for bit."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer import recipe
from finetune_trainer.checkpoint.writing import KINDS
from finetune_trainer.distributed import World
from finetune_trainer.running import Position
from finetune_trainer.saving import resume
from multiproc.cases import NeverStop, config, losses, trained_tensors
from multiproc.parity import METHODS, STRATEGIES, StopAfter
from multiproc.ranks import on_ranks
from support.exports import loaded

CUTS = {1: (1, 4, 1), 2: (1, 2, 2), 4: (1, 1, 4)}
"""Ranks -> micro-batch, accumulation, ranks: the global batch is 4 on each."""
LAST = 10
TOLERANCE, STATE_TOLERANCE = 5e-6, 1e-3
"""Of losses, and of a saved tensor's norm, relative: as in test_parity, fp32 sums that are taken in another order."""


@dataclass(frozen=True)
class Stage:
    """What an attempt runs on, and the step from which on it is told to stop; without one it runs to the end."""

    strategy: str
    ranks: int
    until: int | None = None


@dataclass(frozen=True)
class Move:
    """A run of several attempts."""

    method: str
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return "-".join([self.method, *(f"{stage.strategy}x{stage.ranks}" for stage in self.stages)])


MOVES = (
    Move("LoRA", (Stage("DDP", 4, 2), Stage("DDP", 2, 6), Stage("DDP", 1))),
    Move("LoRA", (Stage("DDP", 2, 2), Stage("FSDP2", 2, 4), Stage("ZeRO-2", 2, 7), Stage("DDP", 2))),
    Move("Full", (Stage("ZeRO-3", 4, 2), Stage("FSDP2", 2, 6), Stage("ZeRO-1", 4))),
    Move("Full", (Stage("DDP", 1, 3), Stage("ZeRO-3+offload", 2, 7), Stage("FSDP2", 4))),
)
"""An epoch has five steps, and the last of them two sequences."""


def _attempt(world: World, run: RunConfig, until: int | None) -> Outcome:
    position = Position()
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    return recipe.run(run, world, NeverStop() if until is None else StopAfter(until, position), position)


def _differing(world: World, run: RunConfig) -> list[str]:
    """What this attempt takes up otherwise than it was saved, or not at all."""
    taken = loaded(run, world)
    resume(taken)
    saved = trained_tensors(Path(run.output_dir), taken.position.step)
    moments = [tensor.norm() for name, tensor in saved.items() if name.startswith("exp_avg.")]
    moment_norm = float(taken.engine.moment_norm())  # whatever of the moment a rank holds
    assert moment_norm == pytest.approx(float(torch.stack(moments).norm()), rel=1e-6)
    differing = [
        name
        for each in taken.engine.trained()
        for kind in KINDS
        if not torch.equal(getattr(each, kind), saved.pop(name := f"{kind}.{each.name}"))
    ]
    return differing + list(saved)


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_a_run_that_moves_does_the_steps_of_one_that_stays(
    move: Move, folder: Path, odd_model: Path, odd_tokens: Path, one_process: dict[str, Path]
) -> None:
    output, found = folder / f"move-{move}", dict[int, float]()
    for number, stage in enumerate(move.stages, 1):
        run = config(
            output, odd_model, odd_tokens, method=METHODS[move.method], parallelism=STRATEGIES[stage.strategy],
            batch=CUTS[stage.ranks], attempt=number,
        )  # fmt: skip
        if number > 1:
            assert on_ranks(stage.ranks, _differing, run, log=output) == [[]] * stage.ranks
        outcome = on_ranks(stage.ranks, _attempt, run, stage.until, log=output)[0]
        done = losses(output, number)
        assert done, "every attempt does some of the steps"
        assert not found.keys() & done.keys(), "no step is done twice"
        found |= done
        assert outcome.exit_code is (ExitCode.DONE if stage.until is None else ExitCode.PREEMPTED)
    assert found == pytest.approx(losses(one_process[move.method]), rel=TOLERANCE)
    expected, trained = (trained_tensors(each, LAST) for each in (one_process[move.method], output))
    assert expected.keys() == trained.keys()
    differences = {name: float((trained[name] - expected[name]).norm() / expected[name].norm()) for name in expected}
    assert max(differences.values()) < STATE_TOLERANCE, max(differences, key=lambda name: differences[name])

"""Looks at held-out rows decide when a run ends, which checkpoint stays, and which one is exported.

The rows are drawn from a few dozen tokens: what the model learns of them first holds for the held-out rows too, what it
learns later does not, so their loss falls and then rises.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_contract import Outcome, RunConfig
from finetune_trainer import recipe
from finetune_trainer.checkpoint import complete_checkpoints, opened
from finetune_trainer.distributed import World
from finetune_trainer.running import Position
from finetune_trainer.stopping import Stop
from multiproc.cases import LORA, NeverStop, config, losses, trained_tensors, write_tokens
from multiproc.ranks import on_ranks

EVERY, PATIENCE = 2, 2
EVALUATION = {"every_steps": EVERY, "patience": PATIENCE, "keep_best": True, "load_best": True}
BEST = 12
"""Between two checkpoints of every five steps, of which one is kept."""
END = BEST + EVERY * PATIENCE


def forty_steps(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    """Eight epochs, if nothing ends them."""
    return config(
        output, model, tokens,
        **{
            "batch": (2, 1, 2), "epochs": 8, "method": LORA | {"rank": 16, "alpha": 32},
            "optimizer": {"peak_learning_rate": 2e-2}, "schedule": {"type": "Constant", "warmup_ratio": 0.1},
            "checkpoint": {"every_steps": 5, "keep": 1}, "evaluation": EVALUATION, "stability": {"divergence": None},
        } | changes,
    )  # fmt: skip


class StopInTheLook:
    """Told to stop from the moment on when the best step is done and not looked at."""

    seconds = 0.0

    def __init__(self, position: Position) -> None:
        self._position = position

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._position.step == BEST > self._position.evaluation.step


@dataclass(frozen=True, slots=True)
class Told:
    """What a rank knows at the end of an attempt."""

    outcome: Outcome
    position: Position


def _run(world: World, run: RunConfig, stop: Callable[[Position], Stop] | None = None) -> Told:
    position = Position()
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    return Told(recipe.run(run, world, stop(position) if stop else NeverStop(), position), position)


def _all(world: World, runs: dict[str, RunConfig]) -> dict[str, Told]:
    told = {name: _run(world, run) for name, run in runs.items() if name != "stopped"}
    told["again"] = _run(world, runs["unbroken"].model_copy(update={"attempt": 2}))
    told["first"] = _run(world, runs["stopped"], StopInTheLook)
    told["second"] = _run(world, runs["stopped"].model_copy(update={"attempt": 2}))
    return told


@pytest.fixture(scope="module")
def outputs(folder: Path) -> dict[str, Path]:
    """Of the runs, by their names."""
    return {name: folder / f"evaluated-{name}" for name in ("unbroken", "FSDP", "stopped")}


@pytest.fixture(scope="module")
def told(folder: Path, small_model: Path, outputs: dict[str, Path]) -> dict[str, Told]:
    """What came of them."""
    tokens = write_tokens(folder / "few-tokens", vocab_size=48)
    runs = {
        name: forty_steps(output, small_model, tokens, **({"parallelism": {"type": name}} if name == "FSDP" else {}))
        for name, output in outputs.items()
    }
    answers = on_ranks(2, _all, runs, log=folder / "evaluated")
    assert answers[0] == answers[1], "both ranks decide the same"
    return answers[0]


@pytest.mark.parametrize("name", ["unbroken", "FSDP"])
def test_a_run_ends_when_so_many_looks_brought_no_gain(
    told: dict[str, Told], outputs: dict[str, Path], name: str
) -> None:
    result = told[name].outcome.result
    assert result is not None
    assert (result.steps, result.stopped_early) == (END, True)
    assert sorted(losses(outputs[name])) == list(range(1, END + 1))
    state = told[name].position.evaluation
    assert (state.best_step, state.step, state.looks_without_gain) == (BEST, END, PATIENCE)
    assert state.best_loss is not None
    assert state.loss is not None
    assert state.best_loss < state.loss


@pytest.mark.parametrize("name", ["unbroken", "FSDP"])
def test_the_best_checkpoint_stays_besides_the_newest(
    outputs: dict[str, Path], told: dict[str, Told], name: str
) -> None:
    kept = complete_checkpoints(outputs[name] / "checkpoints")
    assert [opened(path).state.step for path in kept] == [END, BEST]


@pytest.mark.parametrize("name", ["unbroken", "FSDP"])
def test_what_is_exported_is_the_best_and_not_the_last(
    outputs: dict[str, Path], told: dict[str, Told], name: str
) -> None:
    exported = load_file(outputs[name] / "adapter" / "adapter_model.safetensors")
    best, last = (adapter_in(outputs[name], step) for step in (BEST, END))
    assert exported.keys() == best.keys()
    assert [key for key in exported if not torch.equal(exported[key], best[key])] == []
    assert all(not torch.equal(exported[key], last[key]) for key in exported)
    result, state = told[name].outcome.result, told[name].position.evaluation
    assert result is not None
    assert (result.artifacts_step, result.validation_loss) == (BEST, state.best_loss)
    assert (result.best_step, result.best_validation_loss) == (BEST, state.best_loss)


def adapter_in(output: Path, step: int) -> dict[str, torch.Tensor]:
    """The adapter's weights in a checkpoint, under the names that an adapter's file gives them."""
    weights = {name.removeprefix("weight."): each for name, each in trained_tensors(output, step).items()
               if name.startswith("weight.")}  # fmt: skip
    return {name.replace(".default.", "."): each for name, each in weights.items()}


def test_a_run_that_had_ended_early_ends_again_without_another_step(
    told: dict[str, Told], outputs: dict[str, Path]
) -> None:
    """As when it was killed in its export."""
    assert losses(outputs["unbroken"], attempt=2) == {}
    assert told["again"].outcome.result == told["unbroken"].outcome.result


def test_stopped_in_a_look_ends_as_unbroken(told: dict[str, Told], outputs: dict[str, Path]) -> None:
    """The look is the next attempt's, and finds the best: the checkpoint saved before it is the one to keep."""
    assert told["first"].outcome.step == BEST
    assert told["first"].position.evaluation.step == BEST - EVERY
    told_losses = losses(outputs["stopped"], 1) | losses(outputs["stopped"], 2)
    assert told_losses == losses(outputs["unbroken"])
    assert told["second"].position.evaluation == told["unbroken"].position.evaluation
    ours, theirs = told["second"].outcome.result, told["unbroken"].outcome.result
    assert ours is not None
    assert theirs is not None
    assert (ours.artifacts_step, ours.validation_loss) == (BEST, theirs.validation_loss)
    one, other = (load_file(outputs[name] / "adapter/adapter_model.safetensors") for name in ("stopped", "unbroken"))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []

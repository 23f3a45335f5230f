"""A batch that grows: two ranks under every strategy do what one process does, and go on in the middle of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import CosineSchedule, RunConfig
from finetune_trainer import recipe
from finetune_trainer.distributed import World
from finetune_trainer.rates import learning_rate
from finetune_trainer.running import Position
from multiproc.cases import config, losses
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks

GROWN = ("DDP", "FSDP2", "ZeRO-2")
SIZES = (2, 2, 2, 4, 8)
"""Of eighteen sequences: a size that is not the whole one has a quarter of them, and ends with the step in which
that is over."""
STEPS = len(SIZES)
HALFWAY = 2
TOLERANCE = 5e-6
"""As in test_parity: fp32 sums taken in another order, amplified by AdamW."""


class StopAt:
    """Told to stop when so many steps are done."""

    seconds = 0.0

    def __init__(self, position: Position, step: int) -> None:
        self._position, self._step = position, step

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._position.step >= self._step


def growing(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    """One epoch."""
    run = config(output, model, tokens, **{"epochs": 1, "checkpoint": {"every_steps": STEPS, "keep": 1}} | changes)
    ramp = {"from_sequences": 2, "share": 0.5, "scale_rate": True}
    return RunConfig.model_validate(run.model_dump() | {"batch": run.batch.model_dump() | {"ramp": ramp}})


def _until(world: World, run: RunConfig, *steps: int) -> None:
    """Attempts that end after these steps; what is exported is tested elsewhere."""
    for attempt, step in enumerate(steps, 1):
        position = Position()
        Path(run.output_dir).mkdir(parents=True, exist_ok=True)
        recipe.run(run.model_copy(update={"attempt": attempt}), world, StopAt(position, step), position)


def _all(world: World, runs: dict[str, RunConfig]) -> None:
    for name, run in runs.items():
        _until(world, run, *((HALFWAY, STEPS) if name == "DDP" else (STEPS,)))


@pytest.fixture(scope="module")
def alone(folder: Path, small_model: Path, small_tokens: Path) -> dict[int, dict[str, float]]:
    """What one process tells of each step."""
    output = folder / "growing-one"
    on_ranks(1, _until, growing(output, small_model, small_tokens, batch=(2, 4, 1)), STEPS, log=output)
    lines = map(json.loads, (output / "attempts/1/losses.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


@pytest.fixture(scope="module")
def expected(alone: dict[int, dict[str, float]]) -> dict[int, float]:
    """What one process makes of it: the losses."""
    return {step: line["loss"] for step, line in alone.items()}


@pytest.fixture(scope="module")
def outputs(folder: Path, small_model: Path, small_tokens: Path) -> dict[str, Path]:
    """Of two ranks; under DDP they are stopped while the batch grows, and go on."""
    made = {name: folder / f"growing-{name}" for name in GROWN}
    runs = {
        name: growing(output, small_model, small_tokens, batch=(1, 4, 2), parallelism=STRATEGIES[name])
        for name, output in made.items()
    }
    on_ranks(2, _all, runs, log=folder / "growing")
    return made


@pytest.mark.parametrize("strategy", GROWN)
def test_a_growing_batch_is_the_same_however_it_is_cut(
    outputs: dict[str, Path], expected: dict[int, float], strategy: str
) -> None:
    found = losses(outputs[strategy], 1) | losses(outputs[strategy], 2)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert found == pytest.approx(expected, rel=TOLERANCE)


def test_a_smaller_batch_has_a_lower_rate(alone: dict[int, dict[str, float]]) -> None:
    """By the root of its share of the whole one."""
    schedule = CosineSchedule(warmup_ratio=0.1)
    for step, size in enumerate(SIZES, 1):
        whole = learning_rate(step, total_steps=STEPS, schedule=schedule, peak=1e-2)
        assert alone[step]["learning_rate"] == pytest.approx(whole * math.sqrt(size / SIZES[-1]))


def test_it_is_stopped_while_it_grows(outputs: dict[str, Path]) -> None:
    assert max(losses(outputs["DDP"], 1)) in (HALFWAY, HALFWAY + 1)
    assert max(losses(outputs["DDP"], 2)) == STEPS

"""A learning rate that is far too high: the loss rises for good, is noticed, and is treated in the promised order.

Nothing is done to the losses: every weight of a tiny model is trained at rates that grow step by step, up to thirty.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.failures import DivergedError, failure_of
from multiproc.cases import FULL, config, losses, train
from multiproc.ranks import on_ranks

WINDOW = 8
STEPS = 34
EVERY = 4
"""Steps between two checkpoints of the run that goes back to them; its newest one alone would never be old enough."""


def too_fast(
    output: Path, model: Path, tokens: Path, *, every_steps: int, steps: int = STEPS, **divergence: Any
) -> RunConfig:
    """A run whose loss rises from eight to more than a thousand, if it is let."""
    watch = {"window_steps": WINDOW, "factor": 1.2} | divergence
    return config(
        output, model, tokens, batch=(2, 1, 2), epochs=100, max_steps=steps, method=FULL,
        optimizer={"peak_learning_rate": 30.0},
        schedule={"type": "Constant", "warmup_ratio": 0.0, "warmup_steps": 33},
        stability={"divergence": watch}, checkpoint={"every_steps": every_steps, "keep": 1},
    )  # fmt: skip


def _ends(world: World, runs: dict[str, RunConfig]) -> dict[str, Outcome]:
    """How each run ends on this rank."""
    found = {}
    for name, run in runs.items():
        try:
            found[name] = train(world, run)
        except DivergedError as error:
            found[name] = Outcome(exit_code=ExitCode.NOT_A_NUMBER, failure=failure_of(error))
    return found


@pytest.fixture(scope="module")
def outputs(folder: Path) -> dict[str, Path]:
    """Of the runs, by what is done about the divergence."""
    return {name: folder / f"diverging-{name}" for name in ("rescued", "hopeless", "warned")}


@pytest.fixture(scope="module")
def ends(folder: Path, outputs: dict[str, Path], small_model: Path, small_tokens: Path) -> dict[str, Outcome]:
    """How the runs end."""
    policies: dict[str, dict[str, Any]] = {
        "rescued": {"every_steps": 100, "rate_factor": 0.0005},
        "hopeless": {"every_steps": EVERY, "steps": 2 * STEPS, "rate_factor": 0.9},
        "warned": {"every_steps": 100, "remedies": None},
    }
    runs = {name: too_fast(outputs[name], small_model, small_tokens, **policy) for name, policy in policies.items()}
    answers = on_ranks(2, _ends, runs, log=folder / "diverging")
    assert answers[0] == answers[1], "both ranks decide the same"
    return answers[0]


def test_with_a_rate_that_is_low_enough_the_run_recovers(ends: dict[str, Outcome], outputs: dict[str, Path]) -> None:
    """It had no checkpoint yet: it goes back to the very weights it began with, and learns from there."""
    outcome = ends["rescued"]
    assert outcome.exit_code is ExitCode.DONE
    (note,) = outcome.interventions
    assert note.startswith("the loss has risen from ")
    assert note.endswith(": back to the weights of step 0, learning rate x 0.0005")
    found = losses(outputs["rescued"])
    assert sorted(found) == list(range(1, STEPS + 1))
    worst = max(found, key=lambda step: found[step])
    after = [loss for step, loss in found.items() if step > worst + 2]
    assert found[worst] > 100
    assert max(after) < found[1] + 1
    assert min(after) < found[1] - 1


def test_the_rate_is_lowered_first_then_the_threshold_then_the_run_ends(
    ends: dict[str, Outcome], outputs: dict[str, Path]
) -> None:
    failure = ends["hopeless"].failure
    assert failure is not None
    assert failure.exit_code is ExitCode.NOT_A_NUMBER
    assert [note.rpartition(", ")[2] for note in failure.details] == [
        "learning rate x 0.9",
        "gradient threshold halved",
    ]
    for note in failure.details:
        found = re.search(r"by step (\d+): back to the weights of step (\d+),", note)
        assert found is not None
        noticed, good = map(int, found.groups())
        assert good == (noticed - WINDOW) // EVERY * EVERY, "the newest checkpoint from before the window"
    assert "2 interventions before did not help: lower training.learningRate (30)" in failure.message
    assert max(losses(outputs["hopeless"])) < 2 * STEPS


def test_a_warning_changes_nothing(ends: dict[str, Outcome], outputs: dict[str, Path]) -> None:
    outcome = ends["warned"]
    assert outcome.exit_code is ExitCode.DONE
    assert len(outcome.interventions) == 3, "one in a window, after the first"
    assert all(re.fullmatch(r"the loss has risen from \S+ to \S+ by step \d+", note) for note in outcome.interventions)
    lines = (outputs["warned"] / "attempts/1/losses.jsonl").read_text().splitlines()
    rates = {line["step"]: line["learning_rate"] for line in map(json.loads, lines)}
    assert rates == pytest.approx({step: 30.0 * step / STEPS for step in range(1, STEPS + 1)})

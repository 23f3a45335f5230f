"""A whole run tells how noisy its gradients were."""

import re
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import ExitCode, RunConfig
from finetune_trainer.distributed import World
from multiproc.cases import SEQUENCES, config, train
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks

STEPS = 60


def _train(world: World, run: RunConfig) -> ExitCode:
    return train(world, run).exit_code


def _scale(log: Path) -> float:
    """The figure at the end of rank 0's log."""
    text = log.with_suffix(".0.log").read_text(encoding="utf-8")
    (found,) = re.findall(r"gradient noise scale: about (\S+) sequences", text)
    return float(found)


def _found(strategy: str, sequences: int, rate: float, folder: Path, model: Path, tokens: Path) -> float:
    output = folder / f"noise-{strategy}-{sequences}"
    changes: dict[str, Any] = {
        "batch": (sequences // 2, 1, 2), "parallelism": STRATEGIES[strategy], "epochs": STEPS, "max_steps": STEPS,
        "optimizer": {"peak_learning_rate": rate, "beta1": 0.5}, "checkpoint": {"every_steps": STEPS, "keep": 1},
        "evaluation": {"every_steps": STEPS},
    }  # fmt: skip
    run = config(output, model, tokens, **changes)
    assert on_ranks(2, _train, run, log=output) == [ExitCode.DONE] * 2
    return _scale(output)


def test_steps_over_all_rows_have_no_noise(folder: Path, small_model: Path, small_tokens: Path) -> None:
    found = _found("DDP", SEQUENCES, 1e-6, folder, small_model, small_tokens)  # a rate at which weights hardly move
    assert found < 0.01 * SEQUENCES


def test_small_steps_have_the_same_noise_however_they_are_spread(
    folder: Path, small_model: Path, small_tokens: Path
) -> None:
    found = [
        _found(strategy, 2, 1e-4, folder, small_model, small_tokens)
        for strategy in ("DDP", "FSDP2", "ZeRO-2", "ZeRO-3")
    ]
    assert 2 < found[0] < 1000
    assert found == pytest.approx([found[0]] * len(found), rel=0.01)

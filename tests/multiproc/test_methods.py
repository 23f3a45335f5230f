"""Adapters of other kinds, bases in four bits and mixtures of experts: two ranks do what one process does."""

from pathlib import Path
from typing import Any

import pytest

from finetune_contract import RunConfig
from multiproc.cases import FULL, config, losses, train
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks
from support.adapted import EXPERTS, LORA
from support.tiny import tiny_mixture_dir

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("dense", LORA | {"use_dora": True, "loraplus_lr_ratio": 4.0}),
    "QLoRA": ("dense", LORA | {"type": "QLoRA", "use_dora": True, "modules_to_save": ("norm",)}),
    "mixture": ("mixture", LORA),
    "experts": ("mixture", LORA | {"target_parameters": EXPERTS}),
    "experts in four bits": ("mixture", LORA | {"type": "QLoRA", "target_parameters": EXPERTS}),
    "mixture, Full": ("mixture", FULL),
}
TOLERANCE = 5e-6
"""As in test_parity: fp32 sums taken in another order, amplified by AdamW."""


@pytest.fixture(scope="module")
def mixture(folder: Path) -> Path:
    """A tiny mixture of experts."""
    return tiny_mixture_dir(folder)


@pytest.fixture(scope="module")
def models(small_model: Path, mixture: Path) -> dict[str, Path]:
    """By the names that METHODS uses."""
    return {"dense": small_model, "mixture": mixture}


@pytest.fixture(scope="module")
def expected(folder: Path, models: dict[str, Path], small_tokens: Path) -> dict[str, Path]:
    """What one process makes of each."""
    outputs = {name: folder / f"methods-{name}-one" for name in METHODS}
    for name, (model, method) in METHODS.items():
        on_ranks(1, train, run(outputs[name], models[model], small_tokens, method), log=outputs[name])
    return outputs


def run(output: Path, model: Path, tokens: Path, method: dict[str, Any], **changes: Any) -> RunConfig:
    """Three steps."""
    values: dict[str, Any] = {"max_steps": 3, "checkpoint": {"every_steps": 3, "keep": 1}}
    return config(output, model, tokens, method=method, **values | changes)


CASES = [(strategy, method) for strategy in ("DDP", "FSDP2", "ZeRO-3") for method in METHODS] + [("ZeRO-2", "QLoRA")]


@pytest.mark.parametrize(("strategy", "method"), CASES)
def test_every_strategy_does_what_one_process_does(
    strategy: str, method: str, folder: Path, models: dict[str, Path], small_tokens: Path, expected: dict[str, Path]
) -> None:
    output, (model, settings) = folder / f"methods-{method}-{strategy}", METHODS[method]
    shared: dict[str, Any] = {"parallelism": STRATEGIES[strategy], "batch": (1, 2, 2)}
    on_ranks(2, train, run(output, models[model], small_tokens, settings, **shared), log=output)
    found = losses(output)
    assert sorted(found) == [1, 2, 3]
    assert found == pytest.approx(losses(expected[method]), rel=TOLERANCE)

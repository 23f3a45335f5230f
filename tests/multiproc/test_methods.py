"""Adapters of other kinds, bases in four bits and mixtures of experts: two ranks do what one process does."""

from pathlib import Path
from typing import Any

import pytest

from finetune_contract import RunConfig
from finetune_trainer import recipe, running
from finetune_trainer.distributed import World
from multiproc.cases import FULL, config, losses
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks
from support.adapted import EXPERTS, LORA
from support.tiny import tiny_mixture_dir, wide_model_dir

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("dense", LORA | {"use_dora": True, "loraplus_lr_ratio": 4.0}),
    "QLoRA": ("dense", LORA | {"type": "QLoRA", "use_dora": True, "modules_to_save": ("norm",)}),
    "mixture": ("mixture", LORA),
    "experts": ("mixture", LORA | {"targets": (), "target_parameters": EXPERTS}),
    "experts in four bits": ("mixture", LORA | {"type": "QLoRA", "target_parameters": EXPERTS}),
    "mixture, Full": ("mixture", FULL),
}
STEPS = 2
TOLERANCE = 5e-6
"""As in test_parity: fp32 sums taken in another order, amplified by AdamW."""


@pytest.fixture(scope="module")
def mixture(folder: Path) -> Path:
    """A tiny mixture of experts."""
    return tiny_mixture_dir(folder)


@pytest.fixture(scope="module")
def models(folder: Path, mixture: Path) -> dict[str, Path]:
    """By the names that METHODS uses."""
    return {"dense": wide_model_dir(folder), "mixture": mixture}


@pytest.fixture(scope="module")
def expected(folder: Path, models: dict[str, Path], small_tokens: Path) -> dict[str, Path]:
    """What one process makes of each."""
    outputs = {name: folder / f"methods-{name}-one" for name in METHODS}
    for name, (model, method) in METHODS.items():
        on_ranks(1, trained, run(outputs[name], models[model], small_tokens, method), log=outputs[name])
    return outputs


class BeforeExport:
    """Ends a run when its last step is saved: what is exported is tested elsewhere."""

    seconds = 0.0

    def __init__(self, position: running.Position) -> None:
        self._position = position

    @property
    def requested(self) -> bool:
        """Once all steps are done."""
        return self._position.step == STEPS


def trained(world: World, wanted: RunConfig) -> None:
    """All steps of a run."""
    Path(wanted.output_dir).mkdir(parents=True, exist_ok=True)
    position = running.Position()
    recipe.run(wanted, world, BeforeExport(position), position)


def run(output: Path, model: Path, tokens: Path, method: dict[str, Any], **changes: Any) -> RunConfig:
    """A few steps."""
    values: dict[str, Any] = {"max_steps": STEPS, "checkpoint": {"every_steps": STEPS, "keep": 1}}
    return config(output, model, tokens, method=method, **values | changes)


CASES = {
    "DDP": ("mixture", "experts"),
    "FSDP2": tuple(METHODS),
    "ZeRO-2": ("QLoRA",),
    "ZeRO-3": ("DoRA", "QLoRA", "mixture", "experts"),
}


@pytest.mark.parametrize(("strategy", "method"), [(key, method) for key, chosen in CASES.items() for method in chosen])
def test_every_strategy_does_what_one_process_does(
    strategy: str, method: str, folder: Path, models: dict[str, Path], small_tokens: Path, expected: dict[str, Path]
) -> None:
    output, (model, settings) = folder / f"methods-{method}-{strategy}", METHODS[method]
    shared: dict[str, Any] = {"parallelism": STRATEGIES[strategy], "batch": (1, 2, 2)}
    on_ranks(2, trained, run(output, models[model], small_tokens, settings, **shared), log=output)
    found = losses(output)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(losses(expected[method]), rel=TOLERANCE)

"""An adapter that cannot learn stops the run at its first step, on every rank and before a weight has changed."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from finetune_contract import RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.failures import UserError
from multiproc.cases import config, train
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks

DEAD = "model.layers.1.mlp.up_proj.weight"
"""Zero: nothing ever reaches the down-projection of its layer, so the gradient of its B is zero."""


@pytest.fixture(scope="module")
def dead_model(folder: Path, odd_model: Path) -> Path:
    """The odd model with a layer whose MLP gives nothing."""
    target = folder / "dead-model"
    shutil.copytree(odd_model, target)
    weights = load_file(target / "model.safetensors")
    weights[DEAD].zero_()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def refused(world: World, run: RunConfig) -> tuple[str, str, tuple[str, ...]]:
    """What the run is refused with."""
    with pytest.raises(UserError) as caught:
        train(world, run)
    failure = caught.value.failure
    return failure.reason, failure.message, failure.details


@pytest.mark.parametrize("recompute", ["None", "Full"])
@pytest.mark.parametrize("strategy", ["DDP", "FSDP2", "ZeRO-2", "ZeRO-3"])
def test_it_is_named_by_every_rank(
    strategy: str, recompute: str, folder: Path, dead_model: Path, odd_tokens: Path
) -> None:
    output = folder / f"dead-{strategy}-{recompute}"
    run = config(
        output, dead_model, odd_tokens, batch=(1, 2, 2), parallelism=STRATEGIES[strategy],
        activation_checkpointing=recompute, checkpoint={"every_steps": 1, "keep": 1},
    )  # fmt: skip
    answers = on_ranks(2, refused, run, log=output)
    assert answers[0] == answers[1]
    reason, message, details = answers[0]
    assert reason == "AdapterNotLearning"
    assert "1 of 6 adapters got no finite, non-zero gradient" in message
    assert details == ("base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight",)
    assert list((output / "checkpoints").glob("step-*")) == []

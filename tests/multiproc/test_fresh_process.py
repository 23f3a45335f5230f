"""What a run leaves behind answers as the model in training did to whoever follows its card, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from finetune_contract import Artifact, RunConfig
from finetune_trainer import export, recipe
from finetune_trainer.distributed import World
from finetune_trainer.saving import resume
from multiproc.cases import FULL, config
from multiproc.parity import STRATEGIES
from multiproc.ranks import on_ranks
from support import stranger
from support.adapted import LORA
from support.exports import loaded

TOLERANCE = 1e-5
"""Of a logit, in standard deviations: fp32 on both sides, other orders of sums; 2e-6 was seen."""


def _trained(world: World, config: RunConfig) -> tuple[Artifact, ...]:
    """The whole run; beside every artifact, the prompt and what the model in training says of it."""
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    run = loaded(config, world)
    resume(run)
    recipe.train(run)
    artifacts = recipe.exported(run, recipe.checkpoint_to_export(run))
    ids = export.prompt_ids(run.cache.training)
    said = export.prompt_logits(run.engine, world, ids)
    if world.is_main:
        for artifact in artifacts:
            Path(f"{artifact.path}.ids.json").write_text(json.dumps(list(ids)))
            save_file({"logits": said}, f"{artifact.path}.training.safetensors")
    return artifacts


@pytest.fixture(scope="module")
def artifacts(folder: Path, small_model: Path, small_tokens: Path) -> dict[str, Path]:
    """An adapter and the model it was merged into, trained by FSDP2; a model trained whole by ZeRO-3."""
    shared = {"batch": (1, 2, 2), "max_steps": 4}
    adapter = config(
        folder / "fresh-adapter", small_model, small_tokens, method=LORA | {"use_rslora": True}, merge_adapter=True,
        parallelism=STRATEGIES["FSDP2"], **shared,
    )  # fmt: skip
    full = config(
        folder / "fresh-full", small_model, small_tokens, method=FULL, parallelism=STRATEGIES["ZeRO-3"], **shared
    )
    made = [each for run in (adapter, full) for each in on_ranks(2, _trained, run, log=folder / "fresh")[0]]
    folders: dict[str, Path] = {each.kind: Path(each.path) for each in made}
    command = [sys.executable, "-P", stranger.__file__, *map(str, folders.values())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("kind", ["Adapter", "MergedModel", "Model"])
def test_a_card_s_own_code_loads_what_was_trained(artifacts: dict[str, Path], kind: str) -> None:
    found, expected = (
        load_file(f"{artifacts[kind]}.{whose}.safetensors")["logits"] for whose in ("logits", "training")
    )
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.std()) < TOLERANCE

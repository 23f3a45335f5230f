"""Runs that have reached their last step, ready to be exported, and disks that spoil what is written."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from finetune_contract import LoraMethod, Precision, QloraMethod, RunConfig
from finetune_trainer import checkpoint, export, recipe
from finetune_trainer.checkpoint import Checkpoint, Disk
from finetune_trainer.data.loader import open_tokens, run_steps
from finetune_trainer.distributed import World
from finetune_trainer.export import Finished
from finetune_trainer.model import WeightFiles
from finetune_trainer.reporting import Reporter
from finetune_trainer.running import Position, Run
from multiproc.cases import NeverStop, train
from support.adapted import IDS, adapted, logits
from support.tiny import make_model_script, tiny_model_dir

ALL_PROJECTIONS = {
    "type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.0,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip


def untied_model_dir(folder: Path, *, layers: int = 5) -> Path:
    """A model whose head is its own, with square projections, in the format that models are published in, in two files.

    Its weights are large enough for one layer to matter among the others.
    """
    target = tiny_model_dir(folder, "tiny")
    config: Qwen3Config = make_model_script().tiny_config(1024, hidden_size=128, num_layers=layers)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() == 2 else 1.0)
    (target / "model.safetensors").unlink()
    model.bfloat16().save_pretrained(target, max_shard_size="1MB")
    return target


def loaded(config: RunConfig, world: World) -> Run:
    """A run as it stands before its first step."""
    cache = open_tokens(config.tokens_dir)
    steps = run_steps(cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps)
    reporter = Reporter(config, steps.total, active=False)
    return recipe.load(config, world, NeverStop(), Position(), reporter, cache, steps, Disk())


def finished_run(config: RunConfig, world: World) -> Finished:
    """The run of `config`, trained to its end; its model in training has answered the prompt."""
    outcome = train(world, config)
    assert outcome.checkpoint is not None, outcome.failure
    return resumed(config, checkpoint.opened(Path(outcome.checkpoint.path)), world)


def resumed(config: RunConfig, last: Checkpoint, world: World) -> Finished:
    """The run of `config` when it has taken up `last`, which is its last checkpoint."""
    run = loaded(config, world)
    run.engine.restore(last)
    ids = export.prompt_ids(run.cache.training)
    return Finished(
        config=config, last=last, ids=ids, logits_PV=export.prompt_logits(run.engine, world, ids),
        dataset=run.cache.report,
    )  # fmt: skip


def into(finished: Finished, output: Path, **changes: Any) -> Finished:
    """The same run, exported to another place."""
    config = finished.config.model_copy(update={"output_dir": str(output), **changes})
    return replace(finished, config=config)


class SpoilingDisk(Disk):
    """Changes the tensors of every weight file on their way to the disk."""

    def __init__(self, spoil: Callable[[dict[str, Tensor]], None]) -> None:
        self.spoil = spoil

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Write a file, spoilt."""
        spoilt = {name: tensor.clone() for name, tensor in tensors.items()}
        self.spoil(spoilt)
        super().write_tensors(path, {name: each.contiguous() for name, each in spoilt.items()}, metadata)


def stirred_run(folder: Path, method: LoraMethod | QloraMethod, output: Path, like: Finished) -> Finished:
    """A run with `method` of the model in `folder` that was never trained: its adapters were moved at random.

    Everything else is as in the run `like`; what the model in training answers is what its own modules answer.
    """
    made = adapted(folder, method).stir()
    checkpoint_dir = output / "stirred"
    checkpoint_dir.mkdir(parents=True)
    tensors = {f"weight.{name}": parameter.detach().contiguous() for name, parameter in made.trained.items()}
    save_file(tensors, checkpoint_dir / "trained.safetensors")
    files = WeightFiles(checkpoint_dir)
    changes = {
        "output_dir": str(output), "model_dir": str(folder), "method": method, "precision": Precision.FP32,
        "merge_adapter": True,
    }  # fmt: skip
    return replace(
        like,
        config=like.config.model_copy(update=changes),
        last=replace(like.last, path=checkpoint_dir, files=files, read=files.read),
        ids=tuple(IDS[0].tolist()),
        logits_PV=logits(made.model)[0],
    )

"""Small runs for tests: configurations, token caches with documents of uneven length, and what their results say."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from finetune_contract import DatasetReport, Outcome, RunConfig
from finetune_contract.paths import CHECKPOINTS, checkpoint_name
from finetune_trainer import recipe, running
from finetune_trainer.data.folders import complete, partial_folder
from finetune_trainer.distributed import World, from_main
from finetune_trainer.stopping import Stop
from support.splits import write_split

SEQUENCES = 18
"""Not a multiple of the global batch: the last step of an epoch is smaller, and some ranks get nothing."""
LORA = {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}
FULL = {"type": "Full"}


class NeverStop:
    """Nobody asks this process to stop."""

    requested = False
    seconds = 0.0


def write_tokens(
    folder: Path,
    *,
    vocab_size: int,
    seed: int = 0,
    training: int = SEQUENCES,
    validation: int = 5,
    most_documents: int = 3,
    first_ids: dict[int, int] | None = None,
) -> Path:
    """A token cache of sequences of one to `most_documents` documents.

    `first_ids` says which training sequences begin with a certain token.
    """
    random = np.random.default_rng(seed)
    growing = partial_folder(folder)
    growing.mkdir(parents=True)
    totals = {
        name: _write_split(growing / name, count, vocab_size, most_documents, random, firsts)
        for name, count, firsts in (("training", training, first_ids or {}), ("validation", validation, {}))
        if count
    }
    tokens, supervised = totals["training"]
    report = DatasetReport(
        rows=training, validation_rows=validation, sequences=training, tokens=tokens, supervised_tokens=supervised,
        length_p50=20, length_p95=38, length_p99=40, length_max=40, lengths=(), longest_sequence=120, truncated_rows=0,
        dropped_rows=0, skipped_rows=0, duplicate_rows=0, duplicate_ids=0, left_out_duplicates=0, think_blocks=0,
        packing_efficiency=1.0, digest=f"test-{seed}",
    )  # fmt: skip
    (growing / "report.json").write_text(report.model_dump_json())
    complete(folder, {}, with_digests=False)
    return folder


def _write_split(
    folder: Path,
    count: int,
    vocab_size: int,
    most_documents: int,
    random: np.random.Generator,
    first_ids: dict[int, int],
) -> tuple[int, int]:
    packs: list[list[int]] = []
    lengths: list[int] = []
    for _ in range(count):
        documents = int(random.integers(1, most_documents + 1))
        packs.append(list(range(len(lengths), len(lengths) + documents)))
        lengths.extend(random.integers(3, 41, size=documents).tolist())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    supervised = (random.random(offsets[-1]) < 0.6).astype(np.uint8)
    supervised[offsets[1:] - 1] = 1
    supervised[offsets[:-1]] = 0
    ids = random.integers(0, vocab_size, size=offsets[-1]).astype(np.int32)
    for sequence, token in first_ids.items():
        ids[offsets[packs[sequence][0]]] = token
    write_split(folder, ids, supervised, offsets, packs)
    return int(offsets[-1]), int(supervised.sum())


def config(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    """10 steps of LoRA over 2 epochs, DDP on one rank, global batch 4, a checkpoint every 5 steps."""
    batch = changes.pop("batch", (4, 1, 1))  # micro, accumulation, world
    values: dict[str, Any] = {
        "run": {"name": "test", "namespace": "tests", "uid": "0000"},
        "attempt": 1,
        "model_dir": str(model),
        "tokens_dir": str(tokens),
        "output_dir": str(output),
        "method": LORA,
        "batch": {
            "global_sequences": batch[0] * batch[1] * batch[2],
            "micro_sequences": batch[0],
            "accumulation_steps": batch[1],
            "world_size": batch[2],
        },
        "epochs": 2,
        "optimizer": {"peak_learning_rate": 1e-2, "weight_decay": 0.1},
        "schedule": {"type": "Cosine", "warmup_ratio": 0.1},
        "precision": "Fp32",
        "parallelism": {"type": "DDP"},
        "activation_checkpointing": "None",
        "checkpoint": {"every_steps": 5, "keep": 9},
        "merge_adapter": False,
        "seed": 7,
        "progress_port": 0,
        "grace_seconds": 30,
    }
    return RunConfig.model_validate(values | changes)


def train(world: World, run: RunConfig, stop: Stop | None = None) -> Outcome:
    """The whole recipe on this rank."""
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    return recipe.run(run, world, stop or NeverStop(), running.Position())


def take_over(world: World, source: Path, step: int, target: Path) -> None:
    """Give the run in `target` the checkpoint that `source` had after `step`."""
    if world.is_main:
        shutil.copytree(checkpoint_of(source, step), checkpoint_of(target, step))
    from_main(world, "")


def checkpoint_of(output: Path, step: int) -> Path:
    """Folder of a checkpoint."""
    return output / CHECKPOINTS / checkpoint_name(step)


def losses(output: Path, attempt: int = 1) -> dict[int, float]:
    """Loss of each step that an attempt did."""
    file = output / "attempts" / str(attempt) / "losses.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def trained_tensors(output: Path, step: int) -> dict[str, Tensor]:
    """Weights and optimizer state in a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(checkpoint_of(output, step).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors

"""What a checkpoint says besides its tensors, and which run it belongs to."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from finetune_contract import ContractModel, DatasetReport, RunConfig
from finetune_trainer.evaluation import EvaluationState
from finetune_trainer.stability import StabilityState


class TrainerState(ContractModel):
    """All that a run needs besides tensors to go on after `step`."""

    step: int
    updates: int
    """Updates that the weights have seen: fewer than `step` where some were skipped or taken back."""
    loss_scale: float
    quiet_updates: int
    tokens: int
    """Real tokens trained on since the run began."""
    loss: float | None
    """Of the last step whose loss was finite."""
    stability: StabilityState
    evaluation: EvaluationState
    settings: dict[str, Any]
    """See `settings_of`."""
    fingerprint: str
    """sha256 of the settings."""
    versions: dict[str, str]


def settings_of(config: RunConfig, *, model_digest: str, dataset: DatasetReport) -> dict[str, Any]:
    """What decides the course of a run. A state may only be taken up under the same settings; how the batch is cut,
    the strategy, memory savings and everything about saving and reporting may differ."""
    relevant = config.model_dump(
        mode="json",
        include={"method", "epochs", "max_steps", "optimizer", "schedule", "stability", "precision", "seed"},
    )
    return relevant | {
        "global_sequences": config.batch.global_sequences,
        "ramp": config.batch.model_dump(mode="json")["ramp"],
        "model": model_digest,
        "template": dataset.template_digest,
        "tokens": dataset.digest,
    }


def fingerprint(settings: dict[str, Any]) -> str:
    """One word for the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def model_digest(model_dir: str) -> str:
    """Tells models apart without reading their weights: config.json, and the weight files' names and sizes."""
    digest = hashlib.sha256((Path(model_dir) / "config.json").read_bytes())
    for file in sorted(Path(model_dir).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What wrote a state, for the reader of a puzzling one."""
    return {"torch": str(torch.__version__), "transformers": transformers.__version__}

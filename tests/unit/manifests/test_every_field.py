"""No option is ignored: whatever the user writes reaches the plan, a configuration or an object.

Every leaf of the spec stands in CHANGES with a value that is not its default, and with what must stand beside it.
"""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from finetune_operator.planning import Plan, make_plan
from finetune_operator.resource import Spec
from finetune_operator.settings import Fabric, Settings
from unit.manifests.objects import made
from unit.planning.runs import run

SECRET = {"name": "hub", "key": "token"}
HUB = {"source": "HuggingFace", "id": "team/rows", "file": "rows.jsonl"}
GATED = HUB | {"tokenSecret": SECRET}
STORE = {"source": "S3", "url": "s3://bucket/rows.jsonl", "s3": {"accessKeySecret": SECRET, "secretKeySecret": SECRET}}
SWANLAB = {"tracking": {"swanlab": {"project": "qwen3"}}}
KEYED = {"tracking": {"swanlab": {"project": "qwen3", "apiKeySecret": SECRET}}}
WANDB = {"tracking": {"wandb": {"project": "qwen3", "apiKeySecret": SECRET}}}
MLFLOW = {"tracking": {"mlflow": {"trackingUri": "http://mlflow:5000", "experiment": "qwen3", "tokenSecret": SECRET}}}
PUSHED = {"output": {"mergeAdapter": True, "push": {"repository": "me/huanhuan", "tokenSecret": SECRET}}}
DEEPSPEED: dict[str, Any] = {"parallelism": {"strategy": "DeepSpeed", "deepspeed": {"stage": 3}}}
FSDP = {"parallelism": {"strategy": "FSDP"}}
RAMP = {"training": {"globalBatch": {"samples": 16, "ramp": {"fromSamples": 4}}}}
STABLE = {"training": {"schedule": {"type": "WarmupStableDecay"}}}
HELD_OUT = {"dataset": {"path": "rows.json", "validation": {"fraction": 0.1}}}
KUEUE = {"scheduling": {"gang": "Kueue", "queue": "research"}}
VOLCANO = {"scheduling": {"gang": "Volcano"}}
RACK = {"scheduling": {"topology": {"key": "example.com/rack"}}}
OFFERED = Settings(fabrics={"infiniband": Fabric(environment={"NCCL_IB_HCA": "mlx5"})})
TAINT: dict[str, Any] = {"key": "dedicated", "operator": "Equal", "value": "training"}

SOURCE_CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "source": (HUB, "ModelScope"),
    "path": ({"path": "rows.json"}, "other.json"),
    "id": (HUB, "team/others"),
    "revision": (HUB, "v1.0"),
    "file": (HUB, "others.jsonl"),
    "tokenSecret.name": (GATED, "other"),
    "tokenSecret.key": (GATED, "other"),
    "url": (STORE, "s3://bucket/others.jsonl"),
    "s3.endpoint": (STORE, "https://minio.example"),
    "s3.region": (STORE, "eu-central-1"),
    "s3.accessKeySecret.name": (STORE, "other"),
    "s3.accessKeySecret.key": (STORE, "other"),
    "s3.secretKeySecret.name": (STORE, "other"),
    "s3.secretKeySecret.key": (STORE, "other"),
}
"""Of a source of rows, wherever it stands."""

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "model.id": ({}, "Qwen/Qwen3-4B"),
    "model.source": ({}, "ModelScope"),
    "model.revision": ({}, "v1.0"),
    "model.path": ({"model": {"source": "Volume", "path": "models/mine"}}, "models/other"),
    "model.tokenSecret.name": ({"model": {"id": "Qwen/Qwen3-8B", "tokenSecret": SECRET}}, "other"),
    "model.tokenSecret.key": ({"model": {"id": "Qwen/Qwen3-8B", "tokenSecret": SECRET}}, "other"),
    **{f"dataset.{field}": ({"dataset": beside}, value) for field, (beside, value) in SOURCE_CHANGES.items()},
    **{
        f"dataset.mix.{field}": ({"dataset": {"mix": [beside]}}, value)
        for field, (beside, value) in SOURCE_CHANGES.items()
    },
    "dataset.mix.weight": ({"dataset": {"mix": [HUB]}}, 0.5),
    **{
        f"dataset.validation.{field}": ({"dataset": {"path": "rows.json", "validation": beside}}, value)
        for field, (beside, value) in SOURCE_CHANGES.items()
    },
    "dataset.badRows.policy": ({}, "Skip"),
    "dataset.badRows.limit": ({"dataset": {"path": "rows.json", "badRows": {"policy": "Skip", "limit": 7}}}, 8),
    "dataset.format": ({}, "Messages"),
    "dataset.columns": ({}, {"instruction": "question", "output": "answer"}),
    "dataset.maxTokens": ({}, 1024),
    "dataset.overlong": ({}, "Refuse"),
    "dataset.packing": ({}, False),
    "dataset.validation.fraction": ({}, 0.1),
    "dataset.thinking": ({}, "Strip"),
    "dataset.supervise": ({}, "LastTurn"),
    "dataset.systemPrompt": ({}, "You are brief."),
    "method.type": ({}, "Full"),
    "method.lora.rank": ({}, 16),
    "method.lora.alpha": ({}, 16),
    "method.lora.dropout": ({}, 0.1),
    "method.lora.targets": ({}, ["q_proj"]),
    "method.lora.targetParameters": ({}, ["experts.down_proj"]),
    "method.lora.rankPattern": ({}, {"q_proj": 16}),
    "method.lora.alphaPattern": ({}, {"q_proj": 16}),
    "method.lora.modulesToSave": ({}, ["norm"]),
    "method.lora.useRslora": ({}, True),
    "method.lora.useDora": ({}, True),
    "method.lora.loraplusLrRatio": ({}, 16),
    "method.quantization.blockSize": ({"method": {"type": "QLoRA"}}, 128),
    "method.quantization.doubleQuantization": ({"method": {"type": "QLoRA"}}, False),
    "training.epochs": ({}, 1),
    "training.maxSteps": ({}, 7),
    "training.globalBatch.samples": ({}, 32),
    "training.globalBatch.ramp.fromSamples": (RAMP, 8),
    "training.globalBatch.ramp.share": (RAMP, 0.5),
    "training.globalBatch.ramp.scaleRate": (RAMP, False),
    "training.learningRate": ({}, 1e-4),
    "training.schedule.type": ({}, "Linear"),
    "training.schedule.warmupRatio": ({}, 0.1),
    "training.schedule.warmupSteps": ({}, 3),
    "training.schedule.finalRatio": ({}, 0.1),
    "training.schedule.decayRatio": (STABLE, 0.2),
    "training.schedule.decayShape": (STABLE, "Linear"),
    "training.optimizer.beta1": ({}, 0.8),
    "training.optimizer.beta2": ({}, 0.95),
    "training.optimizer.epsilon": ({}, 1e-6),
    "training.optimizer.weightDecay": ({}, 0.1),
    "training.maxGradNorm": ({}, 0),
    "training.precision": ({}, "Fp16"),
    "training.seed": ({}, 7),
    "parallelism.nodes": ({}, 2),
    "parallelism.gpusPerNode": ({}, 2),
    "parallelism.strategy": ({}, "FSDP"),
    "parallelism.deepspeed.stage": ({"parallelism": {"strategy": "DeepSpeed"}}, 1),
    "parallelism.deepspeed.offloadOptimizer": (DEEPSPEED, "CPU"),
    "parallelism.deepspeed.offloadParameters": (DEEPSPEED, "CPU"),
    "parallelism.deepspeed.reduceBucketElements": (DEEPSPEED, 50_000_000),
    "parallelism.deepspeed.allgatherBucketElements": (DEEPSPEED, 50_000_000),
    "parallelism.deepspeed.overlapCommunication": (DEEPSPEED, False),
    "parallelism.fsdp.reshardAfterForward": (FSDP, False),
    "parallelism.fsdp.cpuOffload": (FSDP, True),
    "parallelism.activationCheckpointing": ({}, "None"),
    "parallelism.microBatch": ({}, 4),
    "parallelism.fabric": ({}, "infiniband"),
    "evaluation.everySteps": (HELD_OUT, 100),
    "evaluation.patience": (HELD_OUT, 3),
    "evaluation.minDelta": (HELD_OUT | {"evaluation": {"patience": 3}}, 0.01),
    "evaluation.keepBest": (HELD_OUT, True),
    "evaluation.loadBest": (HELD_OUT, True),
    "stability.nonFinite.skipSteps": ({}, 0),
    "stability.nonFinite.rollbacks": ({}, 0),
    "stability.nonFinite.rateFactor": ({}, 0.1),
    "stability.divergence.policy": ({}, "Warn"),
    "stability.divergence.windowSteps": ({}, 20),
    "stability.divergence.factor": ({}, 2),
    "stability.divergence.remedies": ({}, ["GradientClipping"]),
    "stability.divergence.rateFactor": ({}, 0.1),
    "checkpoint.everySteps": ({}, 100),
    "checkpoint.keep": ({}, 5),
    "checkpoint.asynchronous": ({}, False),
    "output.mergeAdapter": ({}, True),
    "output.push.hub": (PUSHED, "ModelScope"),
    "output.push.repository": (PUSHED, "me/other"),
    "output.push.private": (PUSHED, False),
    "output.push.revision": (PUSHED, "v2"),
    "output.push.tokenSecret.name": (PUSHED, "other"),
    "output.push.tokenSecret.key": (PUSHED, "other"),
    "output.push.what": (PUSHED, "Both"),
    "storage.inputs.claimName": ({}, "datasets"),
    "storage.cache.claimName": ({}, "models"),
    "storage.cache.size": ({}, "10Gi"),
    "storage.cache.storageClass": ({}, "shared"),
    "storage.output.claimName": ({}, "results"),
    "storage.output.size": ({}, "10Gi"),
    "storage.output.storageClass": ({}, "shared"),
    "storage.output.onDelete": ({}, "Delete"),
    "tracking.swanlab.project": (SWANLAB, "other"),
    "tracking.swanlab.workspace": (SWANLAB, "team"),
    "tracking.swanlab.host": (SWANLAB, "https://swanlab.example"),
    "tracking.swanlab.apiKeySecret.name": (KEYED, "other"),
    "tracking.swanlab.apiKeySecret.key": (KEYED, "other"),
    "tracking.wandb.project": (WANDB, "other"),
    "tracking.wandb.entity": (WANDB, "team"),
    "tracking.wandb.host": (WANDB, "https://wandb.example"),
    "tracking.wandb.apiKeySecret.name": (WANDB, "other"),
    "tracking.wandb.apiKeySecret.key": (WANDB, "other"),
    "tracking.mlflow.trackingUri": (MLFLOW, "http://other:5000"),
    "tracking.mlflow.experiment": (MLFLOW, "other"),
    "tracking.mlflow.tokenSecret.name": (MLFLOW, "other"),
    "tracking.mlflow.tokenSecret.key": (MLFLOW, "other"),
    "scheduling.gang": ({}, "Coscheduling"),
    "scheduling.queue": (VOLCANO, "research"),
    "scheduling.queuePriorityClass": (KUEUE, "high"),
    "scheduling.topology.key": (RACK, "example.com/block"),
    "scheduling.topology.mode": (RACK, "Required"),
    "recovery.hangTimeoutSeconds": ({}, 120),
    "scheduling.priorityClass": ({}, "high"),
    "scheduling.nodeSelector": ({}, {"gpu": "h100"}),
    "scheduling.tolerations.key": ({"scheduling": {"tolerations": [TAINT]}}, [TAINT | {"key": "other"}]),
    "scheduling.tolerations.operator": (
        {"scheduling": {"tolerations": [{"key": "dedicated"}]}},
        [{"key": "dedicated", "operator": "Equal"}],
    ),
    "scheduling.tolerations.value": ({"scheduling": {"tolerations": [TAINT]}}, [TAINT | {"value": "other"}]),
    "scheduling.tolerations.effect": ({"scheduling": {"tolerations": [TAINT]}}, [TAINT | {"effect": "NoExecute"}]),
    "resources.cpuPerGpu": ({}, "4"),
    "resources.memoryPerGpu": ({}, "32Gi"),
    "resources.gpuResource": ({}, "example.com/gpu"),
    "resources.gpuMemory": ({}, "80Gi"),
}
FOR_THE_LIFECYCLE = {
    "suspend": "decides whether an attempt runs, not what it is",
    "mode": "decides whether there is an attempt at all",
    "scheduling.preRunningDeadlineSeconds": "a limit on the operator's patience",
    "scheduling.activeDeadlineSeconds": "a limit on what the run may take",
    "scheduling.ttlSecondsAfterFinished": "when the finished run is deleted",
    "recovery.maxRestarts": "whether there is another attempt",
    "recovery.onOutOfMemory": "what is changed after an attempt whose memory did not suffice",
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_field_changes_what_is_made(path: str) -> None:
    beside, value = CHANGES[path]
    assert outputs(beside) != outputs(with_value(beside, path, value))


def test_no_field_is_forgotten() -> None:
    assert set(leaves(Spec)) == CHANGES.keys() | FOR_THE_LIFECYCLE.keys()
    assert not CHANGES.keys() & FOR_THE_LIFECYCLE.keys()


def outputs(spec: dict[str, Any]) -> tuple[Plan, str]:
    """Everything that is made of a run with `spec`: its first plan, and all objects with what they hold."""
    wanted = run(**spec)
    first = make_plan(wanted, model=None, dataset=None, gpu_memory_bytes=None)
    everything = made(wanted, OFFERED)
    assert everything.plan.batch.global_sequences == wanted.spec.training.global_batch.samples
    return first, str(everything.objects)


def with_value(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`spec` with `value` at `path`, and with the run's usual model and dataset where it names none."""
    usual: dict[str, Any] = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json"}} | spec
    if path.startswith("scheduling.tolerations."):
        return usual | {"scheduling": {"tolerations": value}}
    if path.startswith("dataset.mix."):
        (only,) = usual["dataset"]["mix"]
        return usual | {"dataset": {"mix": [_merged(only, path.split(".")[2:], value)]}}
    return _merged(usual, path.split("."), value)


def _merged(block: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    return block | {name: _merged(block.get(name, {}), rest, value) if rest else value}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all fields that are no blocks themselves."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        block = next((each for each in _types(field.annotation) if issubclass(each, BaseModel)), None)
        if block is None:
            yield path
        else:
            yield from leaves(block, f"{path}.")


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from _types(each)

"""The plan of a run: how its batch, memory and GPUs come together."""

from dataclasses import dataclass
from typing import Any

from finetune_contract import (
    ActivationCheckpointing,
    BatchConfig,
    DatasetReport,
    FullMethod,
    LoraMethod,
    Method,
    ModelFacts,
    Parallelism,
    Precision,
    QloraMethod,
)
from finetune_operator.planning.batch import Stage, cut_batch, ramped_micro_batches, stages, total_steps
from finetune_operator.planning.checkpoints import is_asynchronous
from finetune_operator.planning.exports import check_export
from finetune_operator.planning.memory import MemoryLine, Workload
from finetune_operator.planning.memory_constants import SUPERVISED_SPREAD
from finetune_operator.planning.models import known_model
from finetune_operator.planning.pins import as_pinned
from finetune_operator.planning.quantities import quantity_bytes
from finetune_operator.planning.refusals import (
    PlanError,
    check_dataset,
    check_evaluation,
    check_output,
    check_schedule,
)
from finetune_operator.planning.remedies import does_not_fit
from finetune_operator.planning.strategy import (
    Choice,
    Demand,
    allowed_checkpointings,
    allowed_parallelisms,
    choices,
    first_fit,
    unchecked,
)
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Lora, MethodType, Qwen3FineTune
from finetune_operator.status import RecoveryStatus

__all__ = ["Locations", "MemoryLine", "Plan", "PlanError", "make_plan", "trained_method"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Where the trainer finds and leaves things, as absolute paths in its own file system."""

    cache_dir: str
    inputs_dir: str
    """Volume sources are paths below this."""
    output_dir: str
    """The run's own folder."""
    progress_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was worked out."""

    nodes: int
    gpus_per_node: int
    parallelism: Parallelism
    batch: BatchConfig
    activation_checkpointing: ActivationCheckpointing
    memory: tuple[MemoryLine, ...]
    """Empty: the model's shape is not known yet."""
    gpu_memory_bytes: int | None
    """None: not known, so fit was not checked."""
    total_steps: int | None
    """None: the dataset is not known yet."""
    stages: tuple[Stage, ...]
    """How the batch grows, if it does."""
    is_final: bool
    """Whether the dataset's real lengths went in."""
    asynchronous_checkpoints: bool
    """Whether training goes on while a checkpoint is written."""
    method: Method
    """What is trained."""
    host_bytes: int
    """Host memory per GPU, if state is kept there; else 0."""


def make_plan(
    run: Qwen3FineTune,
    *,
    model: ModelFacts | None,
    dataset: DatasetReport | None,
    gpu_memory_bytes: int | None,
    recovery: RecoveryStatus | None = None,
) -> Plan:
    """The plan for `run`, in which what memory failures have settled (`recovery`) is no choice any more.

    `model` and `dataset` are what the preparation found; before that a known hub id gives the shape, and maxTokens the
    length. `gpu_memory_bytes` is what the nodes say of one GPU; the user's own resources.gpuMemory comes before it.
    Raises: PlanError when nothing the user allows can work.
    """
    run, is_settled = as_pinned(run, recovery), recovery is not None and recovery.pinned is not None
    check_output(run)
    check_dataset(run, dataset)
    check_evaluation(run, dataset)
    topology = Topology(nodes=run.spec.parallelism.nodes, gpus_per_node=run.spec.parallelism.gpus_per_node)
    wanted = run.spec.training.global_batch
    allowed = ramped_micro_batches(wanted, topology, run.spec.parallelism.micro_batch)
    facts = model or known_model(run.spec.model.id)
    gpu_bytes = _stated_gpu_memory(run) or gpu_memory_bytes
    method = trained_method(run)
    common: dict[str, Any] = {"nodes": topology.nodes, "gpus_per_node": topology.gpus_per_node, "method": method}
    steps = total_steps(dataset, run.spec.training) if dataset else None
    check_schedule(run, steps)
    if facts is None:
        batch = cut_batch(wanted, topology, allowed[-1])
        return Plan(
            **common,
            parallelism=allowed_parallelisms(run.spec.parallelism)[0],
            batch=batch,
            stages=stages(batch, dataset, run.spec.training),
            activation_checkpointing=allowed_checkpointings(run.spec.parallelism)[-1],
            memory=(),
            gpu_memory_bytes=gpu_bytes,
            total_steps=steps,
            is_final=False,
            asynchronous_checkpoints=is_asynchronous(run, method, None, world_size=topology.world_size, host_bytes=0),
            host_bytes=0,
        )
    demand = _demand(run, facts, dataset, topology, allowed)
    choice = next(choices(demand)) if is_settled else _chosen(run, demand, gpu_bytes)
    is_checked = gpu_bytes is not None  # else the strategy is the first allowed one, fit or not
    check_export(run, method, facts, host_bytes=choice.host_bytes if is_checked else 0)
    batch = cut_batch(wanted, topology, choice.sharing.micro_sequences)
    return Plan(
        **common,
        parallelism=choice.sharing.parallelism,
        batch=batch,
        stages=stages(batch, dataset, run.spec.training),
        activation_checkpointing=choice.sharing.checkpointing,
        memory=choice.memory,
        gpu_memory_bytes=gpu_bytes,
        total_steps=steps,
        is_final=dataset is not None,
        asynchronous_checkpoints=is_asynchronous(
            run, method, facts, world_size=topology.world_size, host_bytes=choice.host_bytes
        ),
        host_bytes=choice.host_bytes,
    )


def trained_method(run: Qwen3FineTune) -> Method:
    """What is trained, in the contract's words."""
    if run.spec.method.type is MethodType.FULL:
        return FullMethod()
    adapters = adapter_fields(run.spec.method.lora_settings)
    if run.spec.method.type is MethodType.LORA:
        return LoraMethod.model_validate(adapters)
    quantization = run.spec.method.quantization_settings.model_dump()
    return QloraMethod.model_validate(adapters | {"quantization": quantization})


def adapter_fields(lora: Lora) -> dict[str, Any]:
    """The lora block in the contract's words, which are the same."""
    return lora.model_dump()


def _chosen(run: Qwen3FineTune, demand: Demand, gpu_bytes: int | None) -> Choice:
    if gpu_bytes is None:
        return unchecked(demand)
    choice = first_fit(demand, gpu_bytes)
    if choice is None:
        raise does_not_fit(run, demand, gpu_bytes)
    return choice


def _demand(
    run: Qwen3FineTune,
    facts: ModelFacts,
    dataset: DatasetReport | None,
    topology: Topology,
    allowed: tuple[int, ...],
) -> Demand:
    return Demand(
        workload=Workload(
            model=facts,
            method=trained_method(run),
            precision=Precision(run.spec.training.precision),
            tokens_per_sequence=dataset.longest_sequence if dataset else run.spec.dataset.max_tokens,
            supervised_share=_supervised_share(run, dataset),
        ),
        world_size=topology.world_size,
        parallelisms=allowed_parallelisms(run.spec.parallelism),
        checkpointings=allowed_checkpointings(run.spec.parallelism),
        micro_batches=allowed,
        host_bytes=quantity_bytes(run.spec.resources.memory_per_gpu),
    )


def _supervised_share(run: Qwen3FineTune, dataset: DatasetReport | None) -> float:
    """Share of a micro-batch's tokens that may reach the output head: all, unless packing averages over many rows."""
    if dataset is None or not run.spec.dataset.packing or not dataset.tokens:
        return 1.0
    return min(1.0, SUPERVISED_SPREAD * dataset.supervised_tokens / dataset.tokens)


def _stated_gpu_memory(run: Qwen3FineTune) -> int | None:
    stated = run.spec.resources.gpu_memory
    return quantity_bytes(stated) if stated else None

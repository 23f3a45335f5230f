"""What a run that does not fit is told: need against have by component, and changes that would make it fit.

Every change that is named has been tried with the same estimate; nothing is promised that was not worked out.
"""

from collections.abc import Iterator
from dataclasses import replace

from finetune_contract import ActivationCheckpointing, FsdpParallelism, FullMethod, LoraMethod, QloraMethod
from finetune_operator.planning.batch import micro_batches
from finetune_operator.planning.memory import total
from finetune_operator.planning.quantities import GIB, gib
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.strategy import (
    ZERO3_OFFLOADED,
    Choice,
    Demand,
    choices,
    first_fit,
    parallelism_words,
    smallest,
)
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Lora, Qwen3FineTune

_NODE_SIZES = (2, 4, 8)
_NODE_COUNTS = (1, 2, 4, 8, 16)
_LENGTHS = (65536, 32768, 16384, 8192, 4096, 2048, 1024, 512)

Change = tuple[str, Demand]
"""A change of the spec in words, and what it demands."""


def does_not_fit(run: Qwen3FineTune, demand: Demand, gpu_bytes: int) -> PlanError:
    """The refusal of `run`, of whose choices none fits a GPU of `gpu_bytes` and its share of the host's memory."""
    kinds = (_less_recomputed, _smaller_steps, _other_strategies, _more_host_memory, _more_gpus, _shorter, _adapters)
    first_of_each = (
        next((words for words, changed in kind(run, demand) if first_fit(changed, gpu_bytes)), None) for kind in kinds
    )
    advice = "; or ".join(words for words in first_of_each if words) or "a smaller model, or GPUs with more memory"
    return PlanError("DoesNotFit", f"{_need(run, smallest(demand), demand, gpu_bytes)}. What fits: {advice}")


def _need(run: Qwen3FineTune, nearest: Choice, demand: Demand, gpu_bytes: int) -> str:
    sharing = nearest.sharing
    how = (
        f"{parallelism_words(sharing.parallelism)}, micro-batch {sharing.micro_sequences} x "
        f"{demand.workload.tokens_per_sequence} tokens, activationCheckpointing {sharing.checkpointing}"
    )
    if total(nearest.memory) <= gpu_bytes:
        return (
            f"spec.resources.memoryPerGpu: {run.spec.resources.memory_per_gpu} of host memory per GPU do not hold what "
            f"{how} keeps there, {gib(nearest.host_bytes)}"
        )
    parts = ", ".join(f"{line.name} {gib(line.bytes)}" for line in sorted(nearest.memory, key=lambda x: -x.bytes))
    return (
        f"spec.parallelism: one GPU needs {gib(total(nearest.memory))} and has {gib(gpu_bytes)}, with {how}, the "
        f"smallest that the spec allows: {parts}"
    )


def _less_recomputed(_: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    if demand.checkpointings == (ActivationCheckpointing.NONE,):
        full = replace(demand, checkpointings=(ActivationCheckpointing.FULL,))
        yield "spec.parallelism.activationCheckpointing Full", full


def _smaller_steps(run: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    samples, parallelism = run.spec.training.global_batch.first_samples, run.spec.parallelism
    topology = Topology(nodes=parallelism.nodes, gpus_per_node=parallelism.gpus_per_node)
    for size in micro_batches(samples, topology, None):
        if size < demand.micro_batches[-1]:
            yield f"spec.parallelism.microBatch {size}", replace(demand, micro_batches=(size,))


def _other_strategies(_: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    if demand.world_size > 1 and not any(isinstance(each, FsdpParallelism) for each in demand.parallelisms):
        yield "spec.parallelism.strategy FSDP", replace(demand, parallelisms=(FsdpParallelism(),))
    if ZERO3_OFFLOADED not in demand.parallelisms:
        yield (
            "spec.parallelism.strategy DeepSpeed, stage 3, offloadOptimizer and offloadParameters CPU",
            replace(demand, parallelisms=(ZERO3_OFFLOADED,)),
        )


def _more_host_memory(_: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    for needed in sorted({choice.host_bytes for choice in choices(demand)}):
        if needed > demand.host_bytes:
            yield f"spec.resources.memoryPerGpu {-(-needed // GIB)}Gi", replace(demand, host_bytes=needed)


def _more_gpus(run: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    """With FSDP, since under DDP every further rank holds as much again; the global batch stays."""
    samples = run.spec.training.global_batch.first_samples  # what it grows to is a multiple
    for nodes in _NODE_COUNTS:
        for gpus in _NODE_SIZES if nodes == 1 else _NODE_SIZES[-1:]:
            topology = Topology(nodes=nodes, gpus_per_node=gpus)
            share, rest = divmod(samples, topology.world_size)
            sizes = tuple(size for size in demand.micro_batches if share and share % size == 0)
            if topology.world_size > demand.world_size and not rest and sizes:
                yield (
                    f"spec.parallelism.nodes {nodes} and gpusPerNode {gpus} with strategy FSDP",
                    replace(
                        demand,
                        world_size=topology.world_size,
                        parallelisms=(FsdpParallelism(),),
                        micro_batches=sizes,
                    ),
                )


def _shorter(run: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    for tokens in _LENGTHS:
        if tokens < min(demand.workload.tokens_per_sequence, run.spec.dataset.max_tokens):
            shorter = replace(demand.workload, tokens_per_sequence=tokens)
            yield f"spec.dataset.maxTokens {tokens}", replace(demand, workload=shorter)


def _adapters(_: Qwen3FineTune, demand: Demand) -> Iterator[Change]:
    """Adapters in place of every weight; then the base in four bits."""
    method = demand.workload.method
    fields = Lora().model_dump() if isinstance(method, FullMethod) else method.model_dump(exclude={"type"})
    if isinstance(method, FullMethod):
        lora = LoraMethod.model_validate(fields)
        yield "spec.method.type LoRA", replace(demand, workload=replace(demand.workload, method=lora))
    if not isinstance(method, QloraMethod):
        qlora = QloraMethod.model_validate(fields)
        yield "spec.method.type QLoRA", replace(demand, workload=replace(demand.workload, method=qlora))

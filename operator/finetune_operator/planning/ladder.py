"""What can still be changed of a plan that ran out of memory, with the same global batch and the same losses.

Every remedy is a function from what is settled to what would be settled next; None: it has nothing left to change.
"""

from collections.abc import Callable

from finetune_contract import DeepSpeedParallelism, FsdpParallelism, OffloadDevice, Parallelism
from finetune_operator.planning.batch import ramped_micro_batches
from finetune_operator.planning.memory import total
from finetune_operator.planning.plan import Plan
from finetune_operator.planning.quantities import quantity_bytes
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.strategy import parallelism_words
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Checkpointing, MemoryRemedy, MethodType, Qwen3FineTune, Strategy
from finetune_operator.status import PinnedStatus

Planner = Callable[[PinnedStatus], Plan | PlanError]
"""Plans with this settled."""


def pinned_by(plan: Plan) -> PinnedStatus:
    """What `plan` has chosen, settled."""
    settled = PinnedStatus(
        method=MethodType(plan.method.type),
        strategy=Strategy(plan.parallelism.type),
        activation_checkpointing=Checkpointing(plan.activation_checkpointing),
        micro_batch=plan.batch.micro_sequences,
    )
    return settled.model_copy(update=_sharing(plan.parallelism))


def _sharing(chosen: Parallelism) -> dict[str, object]:
    if isinstance(chosen, FsdpParallelism):
        is_offloaded = {"offload_optimizer": chosen.cpu_offload, "offload_parameters": chosen.cpu_offload}
        return {"reshard_after_forward": chosen.reshard_after_forward, **is_offloaded}
    if isinstance(chosen, DeepSpeedParallelism):
        return {
            "stage": chosen.stage,
            "offload_optimizer": chosen.offload_optimizer is OffloadDevice.CPU,
            "offload_parameters": chosen.offload_parameters is OffloadDevice.CPU,
        }
    return {}


def remedied(
    remedy: MemoryRemedy, run: Qwen3FineTune, plan: Plan, planner: Planner
) -> tuple[PinnedStatus, Plan] | None:
    """What `remedy` makes of `plan`, and the plan with it; None: it changes nothing, or nothing for the better.

    The estimate has just been proved wrong as a sum, so the new one is not held against the GPU; which of two ways to
    run takes less, it still tells.
    """
    pinned = _CHANGES[remedy](pinned_by(plan), run)
    made = planner(pinned) if pinned is not None else None
    if pinned is None or not isinstance(made, Plan):
        return None
    takes_less = total(made.memory) < total(plan.memory) or not plan.memory
    has_room = made.host_bytes <= max(plan.host_bytes, quantity_bytes(run.spec.resources.memory_per_gpu))
    return (pinned, made) if takes_less and has_room else None


def remedy_words(remedy: MemoryRemedy, plan: Plan) -> str:
    """What `plan` has of what `remedy` changes: `micro-batch 4 and 4 accumulation steps`."""
    if remedy is MemoryRemedy.MICRO_BATCH:
        steps = plan.batch.accumulation_steps
        return f"micro-batch {plan.batch.micro_sequences} and {steps} accumulation step{'s' if steps > 1 else ''}"
    if remedy is MemoryRemedy.ACTIVATION_CHECKPOINTING:
        return f"activation checkpointing {plan.activation_checkpointing}"
    if remedy is MemoryRemedy.QLORA:
        return f"method {plan.method.type}"
    return parallelism_words(plan.parallelism)


def _smaller_micro_batch(pinned: PinnedStatus, run: Qwen3FineTune) -> PinnedStatus | None:
    """Half of it, or the next smaller one that the global batch can be cut into."""
    parallelism = run.spec.parallelism
    topology = Topology(nodes=parallelism.nodes, gpus_per_node=parallelism.gpus_per_node)
    legal = ramped_micro_batches(run.spec.training.global_batch, topology, None)
    half = next((size for size in legal if 2 * size <= pinned.micro_batch), None)
    return None if half is None else pinned.model_copy(update={"micro_batch": half})


def _recomputed(pinned: PinnedStatus, _: Qwen3FineTune) -> PinnedStatus | None:
    if pinned.activation_checkpointing is Checkpointing.FULL:
        return None
    return pinned.model_copy(update={"activation_checkpointing": Checkpointing.FULL})


def _sharded_more(pinned: PinnedStatus, run: Qwen3FineTune) -> PinnedStatus | None:
    if run.spec.parallelism.world_size == 1:
        return None
    if pinned.strategy is Strategy.DDP:
        return pinned.model_copy(update={"strategy": Strategy.FSDP})
    if pinned.strategy is Strategy.FSDP:
        is_whole = not pinned.reshard_after_forward
        return pinned.model_copy(update={"reshard_after_forward": True}) if is_whole else None
    assert pinned.stage is not None, "DeepSpeed has a stage"
    return pinned.model_copy(update={"stage": pinned.stage + 1}) if pinned.stage < 3 else None


def _optimizer_offloaded(pinned: PinnedStatus, _: Qwen3FineTune) -> PinnedStatus | None:
    """By DeepSpeed, which alone keeps the optimizer apart: in stage 3, which shards as FSDP does, or for DDP in 2."""
    if pinned.offload_optimizer:
        return None
    stage = {Strategy.DDP: 2, Strategy.FSDP: 3}.get(pinned.strategy, pinned.stage)
    return _deepspeed(pinned, stage)


def _parameters_offloaded(pinned: PinnedStatus, _: Qwen3FineTune) -> PinnedStatus | None:
    """With their optimizer's state, which follows its parameters."""
    if pinned.offload_parameters:
        return None
    if pinned.strategy is Strategy.FSDP:
        return pinned.model_copy(update={"offload_optimizer": True, "offload_parameters": True})
    return _deepspeed(pinned, 3).model_copy(update={"offload_parameters": True})


def _deepspeed(pinned: PinnedStatus, stage: int | None) -> PinnedStatus:
    settled = {
        "strategy": Strategy.DEEP_SPEED,
        "stage": stage,
        "offload_optimizer": True,
        "reshard_after_forward": True,
    }
    return pinned.model_copy(update=settled)


def _quantised(pinned: PinnedStatus, _: Qwen3FineTune) -> PinnedStatus | None:
    return pinned.model_copy(update={"method": MethodType.QLORA}) if pinned.method is MethodType.LORA else None


_CHANGES: dict[MemoryRemedy, Callable[[PinnedStatus, Qwen3FineTune], PinnedStatus | None]] = {
    MemoryRemedy.MICRO_BATCH: _smaller_micro_batch,
    MemoryRemedy.ACTIVATION_CHECKPOINTING: _recomputed,
    MemoryRemedy.SHARD_MORE: _sharded_more,
    MemoryRemedy.OFFLOAD_OPTIMIZER: _optimizer_offloaded,
    MemoryRemedy.OFFLOAD_PARAMETERS: _parameters_offloaded,
    MemoryRemedy.QLORA: _quantised,
}

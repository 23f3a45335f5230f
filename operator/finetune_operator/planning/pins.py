"""What memory failures have settled of a run, put into its own spec: what is planned and made of it follows."""

from finetune_operator.resource import DeepSpeed, Fsdp, Offload, Parallelism, Qwen3FineTune, Strategy
from finetune_operator.status import PinnedStatus, RecoveryStatus


def as_pinned(run: Qwen3FineTune, recovery: RecoveryStatus | None) -> Qwen3FineTune:
    """`run` with what is settled: strategy, checkpointing, micro-batch and method are no choice any more."""
    pinned = recovery.pinned if recovery is not None else None
    if pinned is None:
        return run
    settled = {
        "parallelism": _parallelism(run.spec.parallelism, pinned),
        "method": run.spec.method.model_copy(update={"type": pinned.method}),
    }
    return run.model_copy(update={"spec": run.spec.model_copy(update=settled)})


def with_host_memory(run: Qwen3FineTune, recovery: RecoveryStatus | None) -> Qwen3FineTune:
    """`run` with the host memory that its pods get now. Plans are made without it: it is not there to be filled."""
    if recovery is None or recovery.memory_per_gpu is None:
        return run
    resources = run.spec.resources.model_copy(update={"memory_per_gpu": recovery.memory_per_gpu})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"resources": resources})})


def _parallelism(wish: Parallelism, pinned: PinnedStatus) -> Parallelism:
    deepspeed, fsdp = None, None
    if pinned.strategy is Strategy.DEEP_SPEED:
        deepspeed = (wish.deepspeed or DeepSpeed()).model_copy(
            update={
                "stage": pinned.stage,
                "offload_optimizer": _device(pinned.offload_optimizer),
                "offload_parameters": _device(pinned.offload_parameters),
            }
        )
    if pinned.strategy is Strategy.FSDP:
        fsdp = Fsdp(reshard_after_forward=pinned.reshard_after_forward, cpu_offload=pinned.offload_parameters)
    settled = {
        "strategy": pinned.strategy,
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        "activation_checkpointing": pinned.activation_checkpointing,
        "micro_batch": pinned.micro_batch,
    }
    return wish.model_copy(update=settled)


def _device(is_offloaded: bool) -> Offload:
    return Offload.CPU if is_offloaded else Offload.NONE

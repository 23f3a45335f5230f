"""Which strategy, checkpointing and micro-batch: the first that fits, in order of speed.

The order is fixed and needs no measurement on the user's cluster: DDP talks least, FSDP2 gathers weights layer by
layer, ZeRO-3 with everything offloaded moves them over PCIe as well. Recomputing costs a third more work whatever the
strategy, so within one the unrecomputed comes first; then the largest micro-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_contract import (
    ActivationCheckpointing,
    DdpParallelism,
    DeepSpeedParallelism,
    FsdpParallelism,
    OffloadDevice,
    Parallelism,
)
from finetune_operator.planning.memory import MemoryLine, Sharing, Workload, gpu_memory, host_memory, total
from finetune_operator.planning.memory_constants import LARGE_GPU_BYTES, SMALL_GPU_BYTES
from finetune_operator.resource import Checkpointing, DeepSpeed, Fsdp, Strategy
from finetune_operator.resource import Parallelism as Wish

ZERO3_OFFLOADED = DeepSpeedParallelism(
    stage=3, offload_optimizer=OffloadDevice.CPU, offload_parameters=OffloadDevice.CPU
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What must fit, and the choices that the user leaves open, best first."""

    workload: Workload
    world_size: int
    parallelisms: tuple[Parallelism, ...]
    checkpointings: tuple[ActivationCheckpointing, ...]
    micro_batches: tuple[int, ...]
    host_bytes: int
    """Host memory that one GPU brings along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to run, and what it takes."""

    sharing: Sharing
    memory: tuple[MemoryLine, ...]
    host_bytes: int
    """Host memory per GPU, if state is kept there; else 0."""

    def fits(self, gpu_bytes: int, host_bytes: int) -> bool:
        """Whether one GPU and its share of the host's memory suffice."""
        return total(self.memory) <= gpu_bytes and self.host_bytes <= host_bytes


def allowed_parallelisms(wish: Wish) -> tuple[Parallelism, ...]:
    """What the user's `parallelism` block leaves open, fastest first. Sharding over one rank is no choice."""
    if wish.strategy is Strategy.DDP:
        return (DdpParallelism(),)
    if wish.strategy is Strategy.FSDP:
        return (_fsdp(wish.fsdp or Fsdp()),)
    if wish.strategy is Strategy.DEEP_SPEED:
        return (_deepspeed(wish.deepspeed or DeepSpeed()),)
    sharded: tuple[Parallelism, ...] = (FsdpParallelism(),) if wish.world_size > 1 else ()
    return (DdpParallelism(), *sharded, ZERO3_OFFLOADED)


def allowed_checkpointings(wish: Wish) -> tuple[ActivationCheckpointing, ...]:
    """What the user leaves open, fastest first."""
    if wish.activation_checkpointing is Checkpointing.AUTO:
        return (ActivationCheckpointing.NONE, ActivationCheckpointing.FULL)
    return (ActivationCheckpointing(wish.activation_checkpointing),)


def choices(demand: Demand) -> Iterator[Choice]:
    """Every way to run, best first."""
    for parallelism in demand.parallelisms:
        for checkpointing in demand.checkpointings:
            for micro_sequences in demand.micro_batches:
                sharing = Sharing(
                    parallelism=parallelism,
                    world_size=demand.world_size,
                    checkpointing=checkpointing,
                    micro_sequences=micro_sequences,
                )
                yield Choice(
                    sharing=sharing,
                    memory=gpu_memory(demand.workload, sharing),
                    host_bytes=host_memory(demand.workload, sharing),
                )


def first_fit(demand: Demand, gpu_bytes: int) -> Choice | None:
    """The best choice that fits a GPU of `gpu_bytes`; None when none does."""
    return next((choice for choice in choices(demand) if choice.fits(gpu_bytes, demand.host_bytes)), None)


def unchecked(demand: Demand) -> Choice:
    """The choice when nobody knows the GPU's memory: the smallest micro-batch, and a strategy that suits a large card.

    Activations are recomputed unless the run would fit a small one anyway.
    """
    careful = [choice for choice in choices(demand) if choice.sharing.micro_sequences == demand.micro_batches[-1]]
    roomy = next((choice for choice in careful if choice.fits(LARGE_GPU_BYTES, demand.host_bytes)), smallest(demand))
    alike = [choice for choice in careful if choice.sharing.parallelism == roomy.sharing.parallelism]
    return next((choice for choice in alike if choice.fits(SMALL_GPU_BYTES, demand.host_bytes)), alike[-1])


def smallest(demand: Demand) -> Choice:
    """The choice that comes nearest to fitting: what a refusal shows."""
    feasible = [choice for choice in choices(demand) if choice.host_bytes <= demand.host_bytes]
    return min(feasible or choices(demand), key=lambda choice: total(choice.memory))


def parallelism_words(parallelism: Parallelism) -> str:
    """For people: `DDP`, `FSDP`, `DeepSpeed ZeRO-3, optimizer and parameters on CPU`."""
    if isinstance(parallelism, DdpParallelism):
        return "DDP"
    if isinstance(parallelism, FsdpParallelism):
        kept = "" if parallelism.reshard_after_forward else ", weights kept after forward"
        return f"FSDP{kept}{', shards on CPU' if parallelism.cpu_offload else ''}"
    offloads = {"optimizer": parallelism.offload_optimizer, "parameters": parallelism.offload_parameters}
    on_cpu = " and ".join(name for name, device in offloads.items() if device is OffloadDevice.CPU)
    return f"DeepSpeed ZeRO-{parallelism.stage}{f', {on_cpu} on CPU' if on_cpu else ''}"


def _fsdp(wish: Fsdp) -> FsdpParallelism:
    return FsdpParallelism(reshard_after_forward=wish.reshard_after_forward, cpu_offload=wish.cpu_offload)


def _deepspeed(wish: DeepSpeed) -> DeepSpeedParallelism:
    return DeepSpeedParallelism.model_validate(
        {
            "stage": wish.stage,
            "offload_optimizer": wish.offload_optimizer.value,
            "offload_parameters": wish.offload_parameters.value,
            "reduce_bucket_elements": wish.reduce_bucket_elements,
            "allgather_bucket_elements": wish.allgather_bucket_elements,
            "overlap_communication": wish.overlap_communication,
        }
    )

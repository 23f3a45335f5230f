"""How the ranks share the work."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.base import ContractModel


class DdpParallelism(ContractModel):
    """Every rank holds the whole model; gradients are all-reduced."""

    type: Literal["DDP"] = "DDP"


class FsdpParallelism(ContractModel):
    """Parameters, gradients and optimizer state are sharded by torch's fully_shard (FSDP2)."""

    type: Literal["FSDP"] = "FSDP"
    reshard_after_forward: bool = True
    """False keeps gathered weights between forward and backward: faster, and a full copy of them in memory."""
    cpu_offload: bool = False
    """Keep the shards (parameters, gradients, optimizer state) in host memory."""


class OffloadDevice(StrEnum):
    """Where DeepSpeed keeps a kind of state."""

    NONE = "None"
    CPU = "CPU"


class DeepSpeedParallelism(ContractModel):
    """DeepSpeed ZeRO; the engine's configuration file is generated from these fields and the batch."""

    type: Literal["DeepSpeed"] = "DeepSpeed"
    stage: Literal[1, 2, 3]
    offload_optimizer: OffloadDevice = OffloadDevice.NONE
    offload_parameters: OffloadDevice = OffloadDevice.NONE
    """Stage 3 only."""
    reduce_bucket_elements: int = Field(default=200_000_000, ge=1_000)
    allgather_bucket_elements: int = Field(default=200_000_000, ge=1_000)
    overlap_communication: bool = True


Parallelism = Annotated[DdpParallelism | FsdpParallelism | DeepSpeedParallelism, Field(discriminator="type")]

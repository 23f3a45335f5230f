"""How many GPUs, and how they share the work."""

from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import Name, ResourceModel, Rule


class Strategy(StrEnum):
    """How the GPUs share the work; Auto takes the fastest that fits into memory."""

    AUTO = "Auto"
    DDP = "DDP"
    FSDP = "FSDP"
    DEEP_SPEED = "DeepSpeed"


class Checkpointing(StrEnum):
    """Recompute activations in the backward pass: less memory, a third more work; Auto does so only when needed."""

    AUTO = "Auto"
    NONE = "None"
    FULL = "Full"


class Offload(StrEnum):
    """Where DeepSpeed keeps a kind of state."""

    NONE = "None"
    CPU = "CPU"


class DeepSpeed(ResourceModel):
    """DeepSpeed ZeRO."""

    stage: int = Field(default=2, ge=1, le=3)
    """1 shards the optimizer state, 2 the gradients too, 3 the parameters too."""
    offload_optimizer: Offload = Offload.NONE
    """Where the optimizer's state and its step are: on the GPU (None), or on the host's CPU."""
    offload_parameters: Offload = Offload.NONE
    """Where parameters wait for their turn: on the GPU (None), or on the host's CPU; stage 3 only."""
    reduce_bucket_elements: int = Field(default=200_000_000, ge=1000, le=10_000_000_000)
    """Gradients reduced at once, in elements: smaller takes less memory, larger fewer messages."""
    allgather_bucket_elements: int = Field(default=200_000_000, ge=1000, le=10_000_000_000)
    """Parameters gathered at once, in elements."""
    overlap_communication: bool = True
    """Reduce gradients while the backward pass goes on; takes the memory of a second bucket."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.stage == 3 || self.offloadParameters == 'None'",
            "offloadParameters {self.offloadParameters} needs stage 3, and stage is {self.stage}",
            ".offloadParameters",
        ),
    )

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if self.stage != 3 and self.offload_parameters is not Offload.NONE:
            raise ValueError(f"offloadParameters {self.offload_parameters} needs stage 3, and stage is {self.stage}")
        return self


class Fsdp(ResourceModel):
    """torch's fully_shard (FSDP2)."""

    reshard_after_forward: bool = True
    """false keeps gathered weights until the backward pass: faster, and a full copy of them in memory."""
    cpu_offload: bool = False
    """Keep the shards in host memory."""


class Parallelism(ResourceModel):
    """How many GPUs, and how they share the work."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """One pod each."""
    gpus_per_node: int = Field(default=1, ge=1, le=16)
    """One rank each."""
    strategy: Strategy = Strategy.AUTO
    deepspeed: DeepSpeed | None = Field(default=None, alias="deepspeed")
    """Settings of strategy DeepSpeed."""
    fsdp: Fsdp | None = None
    """Settings of strategy FSDP."""
    activation_checkpointing: Checkpointing = Checkpointing.AUTO
    micro_batch: int | None = Field(default=None, ge=1, le=4096)
    """Sequences per GPU in one forward pass; default: what the memory estimate allows."""
    fabric: Name | None = None
    """How nodes reach one another, beside the pod network: one of the profiles that the operator's admin offers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.strategy == 'DeepSpeed' || !has(self.deepspeed)",
            "the deepspeed block goes with strategy DeepSpeed, and strategy is {self.strategy}: change one of them",
            ".deepspeed",
        ),
        Rule(
            "self.strategy == 'FSDP' || !has(self.fsdp)",
            "the fsdp block goes with strategy FSDP, and strategy is {self.strategy}: change one of them",
            ".fsdp",
        ),
    )

    @model_validator(mode="after")
    def _block_fits(self) -> Self:
        if self.deepspeed is not None and self.strategy is not Strategy.DEEP_SPEED:
            raise ValueError(f"the deepspeed block goes with strategy DeepSpeed, and strategy is {self.strategy}")
        if self.fsdp is not None and self.strategy is not Strategy.FSDP:
            raise ValueError(f"the fsdp block goes with strategy FSDP, and strategy is {self.strategy}")
        return self

    @property
    def world_size(self) -> int:
        """Ranks in all: one per GPU."""
        return self.nodes * self.gpus_per_node

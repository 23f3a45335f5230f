"""What attempts that ran out of memory have changed of a run, and what its next attempts therefore run with."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.resource import Checkpointing, MethodType, Strategy
from finetune_operator.status.base import Line, StatusModel

MAX_REMEDIES = 32
"""A micro-batch is at most 65,536 and can be halved sixteen times; the other remedies come to seven steps at most."""


class RemedyStatus(StatusModel):
    """One change, in force from the attempt after `afterAttempt` on."""

    after_attempt: int
    """The attempt whose memory did not suffice."""
    remedy: Line
    """A value of spec.recovery.onOutOfMemory, or HostMemory."""
    before: Line
    """What that attempt ran with, in words."""
    after: Line
    """What the next ones run with."""


class PinnedStatus(StatusModel):
    """Fields of the spec as they hold now: what memory failures have settled, no estimate of memory changes again."""

    method: MethodType
    """spec.method.type."""
    strategy: Strategy
    """spec.parallelism.strategy; never Auto."""
    stage: Literal[1, 2, 3] | None = None
    """Of strategy DeepSpeed."""
    offload_optimizer: bool = False
    """Whether the optimizer's state is kept in host memory; under FSDP the shards go there as a whole."""
    offload_parameters: bool = False
    """Whether parameters wait in host memory for their turn."""
    reshard_after_forward: bool = True
    """Of strategy FSDP."""
    activation_checkpointing: Checkpointing
    """Never Auto."""
    micro_batch: int = Field(ge=1)
    """Sequences per GPU in one forward pass."""


class RecoveryStatus(StatusModel):
    """What memory failures have changed; absent: nothing."""

    remedies: Annotated[tuple[RemedyStatus, ...], Field(max_length=MAX_REMEDIES)] = ()
    """The changes, in their order."""
    pinned: PinnedStatus | None = None
    memory_per_gpu: Line | None = None
    """Host memory per GPU instead of spec.resources.memoryPerGpu; absent: that."""

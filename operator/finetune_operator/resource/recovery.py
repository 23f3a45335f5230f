"""What happens after a failed attempt."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import ResourceModel, Rule


class MemoryRemedy(StrEnum):
    """What is changed when the memory of a GPU does not suffice."""

    MICRO_BATCH = "MicroBatch"
    ACTIVATION_CHECKPOINTING = "ActivationCheckpointing"
    SHARD_MORE = "ShardMore"
    OFFLOAD_OPTIMIZER = "OffloadOptimizer"
    OFFLOAD_PARAMETERS = "OffloadParameters"
    QLORA = "QLoRA"


_WITHOUT_CONSEQUENCES = tuple(remedy for remedy in MemoryRemedy if remedy is not MemoryRemedy.QLORA)
_TWICE = "recovery.onOutOfMemory names a remedy twice: each is taken as often as it helps; leave one of them out"


class Recovery(ResourceModel):
    """What happens after a failed attempt."""

    max_restarts: int = Field(default=3, ge=0, le=100)
    """New attempts after failures that may pass; preemption, drained nodes and remedies for memory do not count."""
    hang_timeout_seconds: int = Field(default=600, ge=60, le=86400)
    """A rank that does nothing for so long, or for ten usual steps if these take longer, is hung: the attempt is ended
    and counts as failed. Loading, the first step (half an hour), saving and exporting (an hour) are given more."""
    on_out_of_memory: Annotated[tuple[MemoryRemedy, ...], Field(max_length=len(MemoryRemedy))] = _WITHOUT_CONSEQUENCES
    """What the next attempt may change when a GPU's memory did not suffice, in this order: the first that still changes
    something is taken, even where the spec names another value. The global batch stays, and all else that decides the
    losses; empty: the run fails with advice. MicroBatch halves microBatch and doubles accumulation,
    ActivationCheckpointing recomputes, ShardMore goes from DDP to FSDP or one DeepSpeed stage up, OffloadOptimizer and
    OffloadParameters move state to host memory (by DeepSpeed; FSDP moves its shards). QLoRA stores LoRA's base in four
    bits, which changes the result: it is taken only if it is listed, and only while there is no checkpoint."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.onOutOfMemory.all(one, self.onOutOfMemory.exists_one(other, other == one))",
            _TWICE,
            ".onOutOfMemory",
        ),
    )

    @model_validator(mode="after")
    def _remedies_differ(self) -> Self:
        if len(set(self.on_out_of_memory)) < len(self.on_out_of_memory):
            raise ValueError(_TWICE)
        return self

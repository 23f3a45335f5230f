"""What was worked out before a GPU was asked for."""

from typing import Annotated

from pydantic import Field

from finetune_operator.status.base import Line, StatusModel


class MemoryComponent(StatusModel):
    """One line of the memory estimate, per GPU."""

    name: Line
    """What takes it."""
    bytes: int
    """How much."""


class BatchStageStatus(StatusModel):
    """A part of the run with one size of its growing batch."""

    samples: int
    """Sequences per optimizer step."""
    accumulation_steps: int
    """Forward passes per optimizer step."""
    first_step: int | None = None
    """The step that has it first; known once the dataset is."""


class PlanStatus(StatusModel):
    """What was worked out, before a GPU was asked for."""

    model: Line | None = None
    """What the run starts from: `Qwen/Qwen3-8B`, `models/qwen3 (volume)`; absent: the plan is of an earlier release."""
    method: Line | None = None
    """What is trained: LoRA, QLoRA or Full; absent: the plan is of an earlier release."""
    strategy: Line
    """`DDP`, `FSDP`, `DeepSpeed ZeRO-3, optimizer and parameters on CPU`."""
    nodes: int
    """Pods, one per node."""
    gpus: int
    """Ranks, one per GPU."""
    micro_batch: int
    """Sequences per GPU in one forward pass."""
    accumulation_steps: int
    """Forward passes per optimizer step."""
    global_batch: int
    """Sequences per optimizer step: microBatch x accumulationSteps x gpus."""
    activation_checkpointing: Line
    """Whether activations are recomputed in the backward pass."""
    total_steps: int | None = None
    """Known once the dataset is."""
    memory: Annotated[tuple[MemoryComponent, ...], Field(max_length=16)] = ()
    """The memory estimate, line by line."""
    memory_bytes: int
    """Estimated peak per GPU: the sum of the components."""
    gpu_memory_bytes: int | None = None
    """What one GPU has; absent: not known, so fit was not checked."""
    batch: Line
    """The batch arithmetic in words."""
    stages: Annotated[tuple[BatchStageStatus, ...], Field(max_length=24)] = ()
    """How the batch grows, smallest first; absent: it does not."""
    final: bool
    """False until the dataset's lengths are known."""

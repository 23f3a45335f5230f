"""How the global batch is cut over ranks and micro-batches, and how many steps a run has.

The global batch is what the optimizer sees and what the user fixed: it is kept whatever the number of GPUs, or refused.
"""

from dataclasses import dataclass

from finetune_contract import BatchConfig, BatchRamp, DatasetReport, Steps
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import GlobalBatch, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a run with one size of its growing batch."""

    global_sequences: int
    accumulation_steps: int
    first_step: int | None
    """None: the dataset is not known yet."""


def sequences_per_rank(global_sequences: int, topology: Topology) -> int:
    """Sequences of one step on one rank. Raises PlanError `BatchNotDivisible` with the nearest global batches."""
    share, rest = divmod(global_sequences, topology.world_size)
    if rest == 0 and share > 0:
        return share
    legal = _nearest(global_sequences, topology.world_size)
    raise PlanError(
        "BatchNotDivisible",
        f"spec.training.globalBatch.samples: {global_sequences} cannot be shared by {topology} = {topology.world_size} "
        f"ranks; use {legal}, or another number of GPUs",
    )


def micro_batches(global_sequences: int, topology: Topology, fixed: int | None) -> tuple[int, ...]:
    """Micro-batches that keep the global batch, largest first; only `fixed`, if the user gave one.

    Raises: PlanError `MicroBatchNotDivisor` with the nearest legal ones.
    """
    share = sequences_per_rank(global_sequences, topology)
    legal = tuple(size for size in range(share, 0, -1) if share % size == 0)
    if fixed is None:
        return legal
    if fixed in legal:
        return (fixed,)
    below = next(size for size in legal if size < fixed)
    above = [size for size in legal if size > fixed]
    raise PlanError(
        "MicroBatchNotDivisor",
        f"spec.parallelism.microBatch: {fixed} does not divide the {share} sequences that each of {topology} = "
        f"{topology.world_size} ranks gets of globalBatch.samples {global_sequences}; use "
        f"{f'{below} or {above[-1]}' if above else below}, or leave it out",
    )


def ramped_micro_batches(batch: GlobalBatch, topology: Topology, fixed: int | None) -> tuple[int, ...]:
    """Those of `micro_batches` that every size of a growing batch can be cut into.

    Raises: PlanError also `RampNotDivisible` with the nearest sizes to begin with.
    """
    legal = micro_batches(batch.samples, topology, fixed)
    if batch.ramp is None:
        return legal
    fitting = tuple(size for size in legal if batch.first_samples % (size * topology.world_size) == 0)
    if fitting:
        return fitting
    each, whole = legal[-1], legal[-1] * topology.world_size
    nearest = batch.nearest_first(whole)
    raise PlanError(
        "RampNotDivisible",
        f"spec.training.globalBatch.ramp.fromSamples: {batch.first_samples} is no multiple of what {topology} = "
        f"{topology.world_size} ranks hold in one pass of {each} each, {whole}; use "
        f"{f'{nearest}, ' if nearest else ''}{'a smaller parallelism.microBatch, ' if fixed else ''}or remove ramp",
    )


def cut_batch(batch: GlobalBatch, topology: Topology, micro_sequences: int) -> BatchConfig:
    """The batch in micro-batches of `micro_sequences`, one of `ramped_micro_batches`."""
    ramp, global_sequences = batch.ramp, batch.samples
    return BatchConfig(
        global_sequences=global_sequences,
        micro_sequences=micro_sequences,
        accumulation_steps=global_sequences // (micro_sequences * topology.world_size),
        world_size=topology.world_size,
        ramp=ramp and BatchRamp(from_sequences=ramp.from_samples, share=ramp.share, scale_rate=ramp.scale_rate),
    )


def total_steps(dataset: DatasetReport, training: Training) -> int:
    """Optimizer steps of the whole run, counted as the trainer does."""
    # no step depends on how the batch is cut
    batch = cut_batch(training.global_batch, Topology(nodes=1, gpus_per_node=1), 1)
    return _steps(dataset, training, batch).total


def stages(batch: BatchConfig, dataset: DatasetReport | None, training: Training) -> tuple[Stage, ...]:
    """The sizes of a growing batch, smallest first, as far as the run comes; none when it does not grow."""
    if batch.ramp is None:
        return ()
    whole = [(size, None) for size in batch.sizes]
    found = whole if dataset is None else _steps(dataset, training, batch).stages
    passes = batch.micro_sequences * batch.world_size
    return tuple(
        Stage(global_sequences=size, accumulation_steps=size // passes, first_step=first) for size, first in found
    )


def _steps(dataset: DatasetReport, training: Training, batch: BatchConfig) -> Steps:
    return Steps(dataset.sequences, batch, epochs=training.epochs, max_steps=training.max_steps)


def batch_words(batch: BatchConfig) -> str:
    """`16 samples = 2 per GPU x 4 GPUs x 2 accumulation`, and `, growing from 4`."""
    samples = f"{batch.global_sequences} sample{'s' if batch.global_sequences > 1 else ''}"
    gpus = f"{batch.world_size} GPU{'s' if batch.world_size > 1 else ''}"
    words = f"{samples} = {batch.micro_sequences} per GPU x {gpus} x {batch.accumulation_steps} accumulation"
    return words if batch.ramp is None else f"{words}, growing from {batch.ramp.from_sequences}"


def stage_words(grows: tuple[Stage, ...]) -> str:
    """`4 samples from step 1 on, 8 from step 7 on, 16 from step 10 on`."""
    if grows[0].first_step is None:
        return f"{', '.join(str(stage.global_sequences) for stage in grows)} samples"
    parts = [f"{stage.global_sequences} from step {stage.first_step}" for stage in grows]
    return f"samples per step: {', '.join(parts)} on"


def _nearest(wanted: int, factor: int) -> str:
    lower = wanted // factor * factor
    return f"{lower} or {lower + factor}" if lower else str(factor)

"""How the global batch is cut over ranks and micro-batches, and how many steps a run has.

The global batch is what the optimizer sees and what the user fixed: it is kept whatever the number of GPUs, or refused.
"""

from finetune_contract import BatchConfig, DatasetReport, Steps
from finetune_operator.planning.refusals import PlanError
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Training


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


def cut_batch(global_sequences: int, topology: Topology, micro_sequences: int) -> BatchConfig:
    """The batch in micro-batches of `micro_sequences`, one of `micro_batches`."""
    return BatchConfig(
        global_sequences=global_sequences,
        micro_sequences=micro_sequences,
        accumulation_steps=global_sequences // (micro_sequences * topology.world_size),
        world_size=topology.world_size,
    )


def total_steps(dataset: DatasetReport, training: Training) -> int:
    """Optimizer steps of the whole run, counted as the trainer does."""
    # no step depends on how the batch is cut
    batch = cut_batch(training.global_batch.samples, Topology(nodes=1, gpus_per_node=1), 1)
    return Steps(dataset.sequences, batch, epochs=training.epochs, max_steps=training.max_steps).total


def batch_words(batch: BatchConfig) -> str:
    """`16 samples = 2 per GPU x 4 GPUs x 2 accumulation`."""
    samples = f"{batch.global_sequences} sample{'s' if batch.global_sequences > 1 else ''}"
    gpus = f"{batch.world_size} GPU{'s' if batch.world_size > 1 else ''}"
    return f"{samples} = {batch.micro_sequences} per GPU x {gpus} x {batch.accumulation_steps} accumulation"


def _nearest(wanted: int, factor: int) -> str:
    lower = wanted // factor * factor
    return f"{lower} or {lower + factor}" if lower else str(factor)

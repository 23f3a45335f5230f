"""From the token cache to the micro-batches of every optimizer step, on every rank, without communication.

An epoch goes through all sequences in an order that the seed and the epoch decide. A step takes the next sequences of
that order, as many as the batch has then, whatever the number of ranks, so resuming needs the step number alone and a
change of micro-batch or world size changes no step. An epoch's last step takes what is left: nothing is dropped or
repeated, and the slots that stay empty become empty micro-batches.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_contract import BatchConfig, Steps
from finetune_trainer.data.batch import MicroBatch, Step
from finetune_trainer.data.cache import Split, TokenCache, open_tokens
from finetune_trainer.data.order import shuffled

__all__ = ["TokenCache", "open_tokens", "run_steps", "training_steps", "validation_micro_batches"]

EPOCH_ORDER = 0x45504F43  # keeps this use of the seed apart from others


def run_steps(cache: TokenCache, *, batch: BatchConfig, epochs: float, max_steps: int | None) -> Steps:
    """Which sequences every step of the run takes."""
    return Steps(cache.training.num_sequences, batch, epochs=epochs, max_steps=max_steps)


def training_steps(
    cache: TokenCache,
    *,
    batch: BatchConfig,
    epochs: float,
    max_steps: int | None,
    seed: int,
    rank: int,
    first_step: int = 1,
) -> Iterator[Step]:
    """This rank's part of the steps `first_step`..`total_steps`; after a checkpoint of step k, begin with k + 1."""
    steps = run_steps(cache, batch=batch, epochs=epochs, max_steps=max_steps)
    order, order_epoch = None, -1
    for number in range(first_step, steps.total + 1):
        part = steps[number]
        if part.epoch != order_epoch:
            order, order_epoch = shuffled(cache.training.num_sequences, seed, EPOCH_ORDER, part.epoch), part.epoch
        assert order is not None
        sequences = order[part.begin : part.begin + part.global_sequences]
        done = (part.begin + len(sequences)) / len(order)
        turns = part.global_sequences // (batch.micro_sequences * batch.world_size)
        yield _step(cache.training, sequences, batch, turns, rank=rank, number=number, epoch=part.epoch + done)


def validation_micro_batches(
    cache: TokenCache, *, micro_sequences: int, rank: int, world_size: int
) -> list[MicroBatch]:
    """This rank's part of the validation split, the same number of micro-batches on every rank; [] without a split."""
    if cache.validation is None:
        return []
    sequences = list(range(cache.validation.num_sequences))
    rounds = -(-len(sequences) // (micro_sequences * world_size))
    return [
        _micro_batch(cache.validation, _slots(sequences, micro_sequences, turn * world_size + rank))
        for turn in range(rounds)
    ]


def _step(
    split: Split,
    sequences: NDArray[np.int64],
    batch: BatchConfig,
    turns: int,
    *,
    rank: int,
    number: int,
    epoch: float,
) -> Step:
    """This rank's `turns` micro-batches of a step over `sequences`."""
    tokens = split.token_counts(sequences)
    # Neighbours in size run at the same time on different ranks, so that none waits long for another.
    by_size = sequences[np.argsort(-tokens, kind="stable")].tolist()
    return Step(
        number=number,
        epoch=epoch,
        micro_batches=tuple(
            _micro_batch(split, _slots(by_size, batch.micro_sequences, turn * batch.world_size + rank))
            for turn in range(turns)
        ),
        global_supervised_tokens=int(split.supervised_counts[sequences].sum()),
        global_tokens=int(tokens.sum()),
    )


def _slots(sequences: list[int], micro_sequences: int, position: int) -> list[int]:
    return sequences[position * micro_sequences : (position + 1) * micro_sequences]


def _micro_batch(split: Split, sequences: Sequence[int]) -> MicroBatch:
    """The documents of `sequences` side by side; the first token of a document is no target."""
    if not sequences:
        return _empty_micro_batch()
    offsets = [split.document_offsets(sequence) for sequence in sequences]
    input_ids_T = np.concatenate([split.input_ids[each[0] : each[-1]] for each in offsets])
    supervised_T = np.concatenate([split.supervised[each[0] : each[-1]] for each in offsets])
    lengths = np.concatenate([np.diff(each) for each in offsets])
    begins = np.cumsum(lengths) - lengths
    targets_S = np.flatnonzero(supervised_T)
    return MicroBatch(
        input_ids_1T=torch.from_numpy(input_ids_T.astype(np.int64)).unsqueeze(0),
        position_ids_1T=torch.from_numpy(np.arange(len(input_ids_T)) - np.repeat(begins, lengths)).unsqueeze(0),
        document_offsets=(*begins.tolist(), len(input_ids_T)),
        longest_document=int(lengths.max()),
        supervised_S=torch.from_numpy(targets_S - 1),
        targets_S=torch.from_numpy(input_ids_T[targets_S].astype(np.int64)),
    )


def _empty_micro_batch() -> MicroBatch:
    """One unsupervised token: enough to run forward and backward and take part in every collective."""
    return MicroBatch(
        input_ids_1T=torch.zeros((1, 1), dtype=torch.int64),
        position_ids_1T=torch.zeros((1, 1), dtype=torch.int64),
        document_offsets=(0, 1),
        longest_document=1,
        supervised_S=torch.zeros(0, dtype=torch.int64),
        targets_S=torch.zeros(0, dtype=torch.int64),
    )

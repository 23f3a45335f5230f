"""Puts documents side by side into sequences of at most a given number of tokens. Pure and deterministic."""

from collections.abc import Sequence

import numpy as np

from finetune_trainer.data.order import shuffled

LONG_SHARE = 8
"""A document of more than 1/8 of a sequence is placed by size; shorter ones are placed in shuffled order."""
_PACKING = 0x5041434B  # keeps this use of the seed apart from others


def packed(lengths: Sequence[int], *, max_tokens: int, seed: int) -> list[list[int]]:
    """Sequences as lists of document numbers; every document is in exactly one, and none is longer than `max_tokens`.

    Best fit: a document goes into the fullest sequence that has room. Long documents go first, longest first, since
    they are hard to place. Short ones follow in shuffled order: sorted by length too, they would fill whole sequences
    with documents of one length, and a step would no longer be a fair sample of the data.
    """
    assert all(0 < length <= max_tokens for length in lengths), "documents are cut to max_tokens before packing"
    sequences: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set while a sequence has exactly r tokens of room
    for document in _placing_order(lengths, max_tokens, seed):
        length = lengths[document]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = open_by_room[room].pop()
            if not open_by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, sequence = max_tokens, len(sequences)
            sequences.append([])
        sequences[sequence].append(document)
        if room > length:
            open_by_room.setdefault(room - length, []).append(sequence)
            rooms |= 1 << (room - length)
    return sequences


def _placing_order(lengths: Sequence[int], max_tokens: int, seed: int) -> list[int]:
    order = shuffled(len(lengths), seed, _PACKING)
    shuffled_lengths = np.asarray(lengths, dtype=np.int64)[order]
    is_long = shuffled_lengths > max_tokens // LONG_SHARE
    longest_first = np.argsort(-shuffled_lengths[is_long], kind="stable")
    return [*order[is_long][longest_first].tolist(), *order[~is_long].tolist()]

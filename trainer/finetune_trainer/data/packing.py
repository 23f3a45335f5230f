"""Puts documents side by side into sequences of at most a given number of tokens. Pure, deterministic, linear in time.

One sequence is filled after the other. It begins with the longest long document left and takes on, largest first, the
long ones that still fit, since they are hard to place. Short documents follow in shuffled order: sorted by length too,
they would fill whole sequences with documents of one length, and a step would no longer be a fair sample of the data.
Only the end of a sequence is chosen by length: the one or two documents that fill it best.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.order import shuffled

LONG_SHARE = 8
"""A document of more than 1/8 of a sequence is placed by size; shorter ones are placed in shuffled order."""
MAX_SEARCHED_WASTE = 64
"""Pairs of documents are tried down to a sum that leaves so many tokens empty; beyond, the largest one has to do."""
_PACKING = 0x5041434B  # keeps this use of the seed apart from others


def packed(lengths: Sequence[int] | NDArray[np.integer], *, max_tokens: int, seed: int) -> list[list[int]]:
    """Sequences as lists of document numbers; every document is in exactly one, and none is longer than `max_tokens`.

    A sequence ends when none of the documents that are left fits, so no two sequences could have been one.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert not len(sizes) or (sizes.min() > 0 and sizes.max() <= max_tokens), "documents are cut before packing"
    order = shuffled(len(sizes), seed, _PACKING)
    is_long = sizes[order] > max_tokens // LONG_SHARE
    long, short = _Pool(order[is_long], sizes), _Pool(order[~is_long], sizes)
    sequences = []
    while long.count or short.count:
        sequence: list[int] = []
        room = _filled(sequence, max_tokens, long)
        room = _drawn(sequence, room, short)
        _filled(sequence, room, short)
        sequences.append(sequence)
    return sequences


class _Pool:
    """Documents that are not placed yet: to be drawn in shuffled order, or to be taken by length."""

    def __init__(self, order: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        self.count = len(order)
        self.shortest = int(sizes[order].min()) if len(order) else 0
        self.typical = int(np.median(sizes[order])) if len(order) else 0
        self._order = order.tolist()
        self._next = 0
        self.lengths: list[int] = sizes.tolist()
        """Of all documents, the placed ones too."""
        self._is_taken = bytearray(len(sizes))
        self._by_length: dict[int, list[int]] = {}
        for document in self._order:
            self._by_length.setdefault(self.lengths[document], []).append(document)
        self._left = {length: len(documents) for length, documents in self._by_length.items()}
        self._top = max(self._left, default=0)
        self._there = sum(1 << length for length in self._left)  # bit l is set while a document of length l is left
        self._mirrored = sum(1 << (self._top - length) for length in self._left)  # bit (top - l) is set with it

    def draw(self, at_most: int) -> int | None:
        """The next document in shuffled order; None if it is longer than `at_most`, or there is none."""
        while self._next < len(self._order) and self._is_taken[self._order[self._next]]:
            self._next += 1
        if self._next == len(self._order) or self.lengths[self._order[self._next]] > at_most:
            return None
        return self._taken(self._order[self._next])

    def take(self, length: int) -> int:
        """A document of a length that is there, the last in shuffled order."""
        documents = self._by_length[length]
        while self._is_taken[documents[-1]]:
            documents.pop()
        return self._taken(documents.pop())

    def largest(self, at_most: int) -> int:
        """The largest length up to `at_most` that is there; 0 if there is none."""
        return max(0, (self._there & ((2 << at_most) - 1)).bit_length() - 1)

    def pair(self, total: int) -> tuple[int, int] | None:
        """Two lengths that are there and make `total`; None if there are no such two."""
        shift = self._top - total
        firsts = self._there & (self._mirrored >> shift if shift >= 0 else self._mirrored << -shift)
        if total % 2 == 0 and self._left.get(total // 2) == 1:
            firsts &= ~(1 << (total // 2))  # one document is no pair
        first = firsts.bit_length() - 1
        return (first, total - first) if firsts else None

    def _taken(self, document: int) -> int:
        length = self.lengths[document]
        self._is_taken[document] = 1
        self.count -= 1
        self._left[length] -= 1
        if not self._left[length]:
            self._there ^= 1 << length
            self._mirrored ^= 1 << (self._top - length)
        return document


def _drawn(sequence: list[int], room: int, pool: _Pool) -> int:
    """Put documents in shuffled order into `sequence` while the rest of its room can still be filled well."""
    end = 3 * pool.typical  # what two documents of usual lengths can fill
    while room > end:
        document = pool.draw(room - 2 * pool.shortest)
        if document is None:
            break
        sequence.append(document)
        room -= pool.lengths[document]
    return room


def _filled(sequence: list[int], room: int, pool: _Pool) -> int:
    """Put the documents into `sequence` that fill its room best, until none fits."""
    while largest := pool.largest(room):
        waste = room - largest
        pair = next(filter(None, (pool.pair(room - less) for less in range(min(waste, MAX_SEARCHED_WASTE)))), None)
        for length in pair or (largest,):
            sequence.append(pool.take(length))
            room -= length
    return room

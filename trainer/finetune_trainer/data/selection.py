"""Who goes where: which documents are held out for validation, and how often each other one stands in an epoch.

All of it is decided by hashes, so it depends on the seed and the data alone and needs no list of all documents:

- A fraction is held out by content: the documents whose hashes are smallest. All copies of a row go to the same side,
  and a row that is added to the data moves hardly any other.
- What equals a document of the validation's own source is left out of training.
- A source of weight 2.5 gives every document twice, and the half of them that the seed chooses a third time. The choice
  is the same in every epoch: an epoch is the same documents every time, which were packed once and counted once.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

MAX_SORTED = 1 << 22
"""Hashes that are sorted at once; more are taken apart by their first bits."""
_VALIDATION_SPLIT = 0x56414C49  # keeps this use of the seed apart from others
_WEIGHTS = 0x57454947
_NONE = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is done with every document."""

    seed: int
    weights: tuple[float, ...]
    """Of the sources to train on."""
    held_out_up_to: int = -1
    """Contents whose hash with the seed is at most this are held out."""
    held_out: Hashes | None = None
    """Contents of the validation's own source, sorted."""
    extra_up_to: tuple[int, ...] = ()
    """For each source: a document whose place has a hash of at most this stands in an epoch once more."""

    def is_held_out(self, contents: Hashes) -> NDArray[np.bool_]:
        """Whether each of these documents of a training source belongs to the validation split."""
        if self.held_out_up_to < 0:
            return np.zeros(len(contents), dtype=bool)
        return np.asarray(split_hashes(self.seed, contents) <= np.uint64(self.held_out_up_to))

    def is_left_out(self, contents: Hashes) -> NDArray[np.bool_]:
        """Whether each of these documents of a training source equals one of the validation's own source."""
        if self.held_out is None or not len(self.held_out):
            return np.zeros(len(contents), dtype=bool)
        places = np.minimum(np.searchsorted(self.held_out, contents), len(self.held_out) - 1)
        return np.asarray(self.held_out[places] == contents)

    def copies(self, source: int, first: int, contents: Hashes) -> NDArray[np.int64]:
        """How often each of these documents stands in an epoch; they are a source's from number `first` on."""
        whole = math.floor(self.weights[source])
        found = np.full(len(contents), whole, dtype=np.int64)
        if self.extra_up_to and self.extra_up_to[source] >= 0:
            found += place_hashes(self.seed, source, first, len(contents)) <= np.uint64(self.extra_up_to[source])
        found[self.is_held_out(contents) | self.is_left_out(contents)] = 0
        return found


def split_hashes(seed: int, contents: Hashes) -> Hashes:
    """Hashes that decide which contents are held out; equal for equal contents alone."""
    return mixed(contents, seed, _VALIDATION_SPLIT)


def place_hashes(seed: int, source: int, first: int, count: int) -> Hashes:
    """Hashes of the places of documents in their source, no two of them equal."""
    places = np.arange(first, first + count, dtype=np.uint64)
    return mixed(places, seed, _WEIGHTS, source)


def smallest(values: Callable[[], Iterable[Hashes]], count: int, *, most: int = MAX_SORTED) -> int:
    """The `count`-th smallest of all values, equal ones counted one by one; -1 for none at all.

    Goes through `values()` several times rather than sort more than `most` of them at once.
    """
    if count <= 0:
        return -1
    low, bits = 0, 64  # the one that is sought has its first 64 - bits bits in common with `low`
    while True:
        inside = sum(int(_within(each, low, bits).sum()) for each in values())
        if inside <= most:
            break
        if bits == 0:
            return low
        bits = max(0, bits - 16)
        counts = np.zeros(1 << 16, dtype=np.int64)
        for each in values():
            chosen = each[_within(each, low, bits + 16)]
            counts += np.bincount((chosen >> np.uint64(bits)) & np.uint64(0xFFFF), minlength=1 << 16)
        bucket = int(np.searchsorted(np.cumsum(counts), count))
        count -= int(counts[:bucket].sum())
        low |= bucket << bits
    return int(np.sort(np.concatenate([each[_within(each, low, bits)] for each in values()]))[count - 1])


def distinct(values: Callable[[], Iterable[Hashes]], total: int, *, most: int = MAX_SORTED) -> int:
    """How many different values there are among `total`; as many passes as it takes to sort about `most` at a time."""
    parts = -(-total // most)
    return sum(
        len(np.unique(np.concatenate([_NONE, *(each[each % np.uint64(parts) == part] for each in values())])))
        for part in range(parts)
    )


def mixed(values: Hashes, *words: int) -> Hashes:
    """Hashes of 64-bit values and some numbers: one to one in the values (the finalizer of SplitMix64, Steele 2014)."""
    salt = np.random.SeedSequence(words).generate_state(1, dtype=np.uint64)[0]
    with np.errstate(over="ignore"):
        z = values ^ salt
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def _within(values: Hashes, low: int, bits: int) -> NDArray[np.bool_]:
    """Whether each value has its first 64 - bits bits in common with `low`."""
    if bits == 64:
        return np.ones(len(values), dtype=bool)
    return np.asarray((values >> np.uint64(bits)) == np.uint64(low >> bits))

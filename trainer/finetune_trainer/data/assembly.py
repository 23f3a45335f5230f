"""Spooled documents become a split of the token cache, window by window, on all cores.

A window is so many tokens that a process holds them in memory and packs them at once: a slice of every source, so that
the sources are mixed evenly within it. Where a window's tokens and documents belong in the split's files is known
before it is packed, so every process writes to its own place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_contract import DatasetConfig
from finetune_trainer.data.cache import SplitFiles
from finetune_trainer.data.disk_space import room_for
from finetune_trainer.data.packing import packed
from finetune_trainer.data.parallel import mapped
from finetune_trainer.data.spool import LEARNT, Spool

BYTES_PER_TOKEN, BYTES_PER_DOCUMENT = 5, 8

Copies = Callable[[int], NDArray[np.int64]]
"""For a shard's number: how often each of its documents is in the split."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is packed and moved at once."""

    window_tokens: int = 1 << 24
    sequences_per_window: int = 256
    """At least, so that the one that is not full at a window's end weighs little."""
    tokens_at_once: int = 1 << 20

    def window(self, config: DatasetConfig) -> int:
        """Tokens of a window for these options; not for the machine, since the same data gives the same sequences."""
        return max(self.window_tokens, self.sequences_per_window * config.max_tokens)


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Part:
    """Some documents of a shard, side by side."""

    shard: int
    begin: int
    end: int


@dataclass(slots=True)
class Window:
    """Documents that are packed together, and where they belong in the split's files."""

    number: int
    first_document: int = 0
    first_token: int = 0
    documents: int = 0
    tokens: int = 0
    parts: list[Part] = field(default_factory=list)


def windows(
    spool: Spool, shards_of: Mapping[int, Sequence[int]], copies: Copies, *, window_tokens: int
) -> list[Window]:
    """The windows of a split that is made of the shards of these sources, each with at most a few tokens more."""
    totals = {source: _total_tokens(spool, shards, copies) for source, shards in shards_of.items()}
    found = [Window(number) for number in range(-(-sum(totals.values()) // window_tokens))]
    for source, shards in shards_of.items():
        before = 0
        for shard in shards:
            lengths, times = spool.lengths(shard), copies(shard)
            ends = before + np.cumsum(lengths * times)
            places = (ends - lengths * times) * len(found) // max(1, totals[source])
            before = int(ends[-1]) if len(ends) else before
            for begin, end in _runs(places):
                taken = times[begin:end]
                if taken.any():
                    window = found[int(places[begin])]
                    window.parts.append(Part(shard, begin, end))
                    window.documents += int(taken.sum())
                    window.tokens += int((lengths[begin:end] * taken).sum())
    for one, other in pairwise(found):
        other.first_document = one.first_document + one.documents
        other.first_token = one.first_token + one.tokens
    return [window for window in found if window.documents]


def write_split(
    folder: Path,
    spool: Spool,
    shards_of: Mapping[int, Sequence[int]],
    copies: Copies,
    config: DatasetConfig,
    *,
    workers: int,
    sizes: Sizes = SIZES,
) -> None:
    """Write the split made of these shards; `copies` says how often each of their documents is in it."""
    found = windows(spool, shards_of, copies, window_tokens=sizes.window(config))
    documents, tokens = (sum(getattr(window, name) for window in found) for name in ("documents", "tokens"))
    folder.mkdir(parents=True)
    with room_for(BYTES_PER_TOKEN * tokens + BYTES_PER_DOCUMENT * documents, folder, "the token cache"):
        files = SplitFiles.created(folder, documents=documents, tokens=tokens)
        writer = _WindowWriter(files, spool, copies, config, sizes.tokens_at_once)
        files.finish(mapped(writer.write, iter(found), workers=workers))


@dataclass(frozen=True, slots=True)
class _WindowWriter:
    files: SplitFiles
    spool: Spool
    copies: Copies
    config: DatasetConfig
    tokens_at_once: int

    def write(self, window: Window) -> NDArray[np.int64]:
        """Put a window's tokens and documents into place; documents and learnt tokens of each sequence [S, 2]."""
        lengths, begins, tokens = self._read(window)
        order, sizes = self._packed(lengths, window.number)
        learnt = self._write_tokens(window, lengths[order], begins[order], tokens)
        self.files.write_documents(window.first_document, window.first_token + np.cumsum(lengths[order]))
        return np.stack([sizes, np.add.reduceat(learnt, np.cumsum(sizes) - sizes)], axis=1)

    def _read(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
        """Length and place of every document of a window in its tokens; copies share theirs."""
        lengths, times, tokens = [], [], []
        for part in window.parts:
            of_shard = self.spool.lengths(part.shard)
            ends = np.cumsum(of_shard)
            taken = self.copies(part.shard)
            for begin, end in _slabs(ends, part.begin, part.end, self.tokens_at_once):
                chosen = taken[begin:end] > 0
                read = self.spool.tokens(part.shard, int(ends[begin] - of_shard[begin]), int(ends[end - 1]))
                tokens.append(read[np.repeat(chosen, of_shard[begin:end])])
                lengths.append(of_shard[begin:end][chosen])
                times.append(taken[begin:end][chosen])
        all_lengths, all_times = np.concatenate(lengths), np.concatenate(times)
        begins = np.cumsum(all_lengths) - all_lengths
        return np.repeat(all_lengths, all_times), np.repeat(begins, all_times), np.concatenate(tokens)

    def _packed(self, lengths: NDArray[np.int64], window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The documents in the order of the sequences, and how many each sequence has."""
        if not self.config.packing:
            return np.arange(len(lengths)), np.ones(len(lengths), dtype=np.int64)
        seed = self.config.seed if window == 0 else (self.config.seed << 32) + window
        sequences = packed(lengths, max_tokens=self.config.max_tokens, seed=seed)
        sizes = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        return np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=len(lengths)), sizes

    def _write_tokens(
        self, window: Window, lengths: NDArray[np.int64], begins: NDArray[np.int64], tokens: NDArray[np.uint32]
    ) -> NDArray[np.int64]:
        """Write the documents one after another; how many learnt tokens each has."""
        ends = np.cumsum(lengths)
        learnt = []
        for first, last in _slabs(ends, 0, len(lengths), self.tokens_at_once):
            starts = ends[first:last] - lengths[first:last]
            places = np.arange(starts[0], ends[last - 1]) + np.repeat(begins[first:last] - starts, lengths[first:last])
            values = tokens[places]
            supervised = (values >= LEARNT).astype(np.uint8)
            self.files.write_tokens(
                window.first_token + int(starts[0]), (values & ~LEARNT).astype(np.int32), supervised
            )
            learnt.append(np.add.reduceat(supervised, starts - starts[0], dtype=np.int64))
        return np.concatenate(learnt)


def _total_tokens(spool: Spool, shards: Sequence[int], copies: Copies) -> int:
    return sum(int((spool.lengths(shard) * copies(shard)).sum()) for shard in shards)


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where stretches of equal values begin and end."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from ((begin, end) for begin, end in pairwise(edges) if begin < end)


def _slabs(ends: NDArray[np.int64], begin: int, end: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Documents `begin`..`end` in stretches of about so many tokens; `ends` are sums of lengths."""
    while begin < end:
        before = int(ends[begin - 1]) if begin else 0
        stop = int(np.searchsorted(ends, before + tokens, side="right"))
        stop = min(max(stop, begin + 1), end)
        yield begin, stop
        begin = stop

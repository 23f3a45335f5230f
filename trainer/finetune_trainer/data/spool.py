"""Documents on their way into the token cache: one group of files per shard, written once, whole or not there.

    NUMBER.tokens        uint32 [tokens]   token ids, with the highest bit set where a token is learnt
    NUMBER.npz
        lengths          uint32 [D]        tokens of each document that stays
        contents         uint64 [D]        hash of each of them before it was cut: equal rows have equal ones
        rows             uint32 [R]        tokens of each row that could be rendered, before it was cut or dropped
        ids              uint64 [I]        hash of the `id` of each row that has one
    NUMBER.json          ShardFacts        written last: the shard is complete

A preparation that was killed goes on behind the shards that are complete.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import RowProblem
from finetune_trainer.data.readers import Broken, Piece

LEARNT = np.uint32(1 << 31)
MAX_NOTED = 100
"""Problems of one shard that are kept in words."""


@dataclass(slots=True)
class ShardFacts:
    """What a shard holds, and what was wrong with its rows; their numbers count from 1 within the shard."""

    file: int
    """Number of the input file that it is a piece of."""
    piece: Piece
    rows: int = 0
    documents: int = 0
    tokens: int = 0
    truncated: int = 0
    dropped: int = 0
    think_blocks: int = 0
    bad_rows: int = 0
    overlong_rows: int = 0
    """Of these, rows that are too long and nothing else; no policy for bad rows passes over them."""
    problems: list[RowProblem] = field(default_factory=list)
    """The first MAX_NOTED of the bad rows."""
    broken: Broken | None = None


_FACTS = TypeAdapter(ShardFacts)


class Spool:
    """The shards below a folder, by number."""

    def __init__(self, folder: Path, *, sync: Callable[[int], None] = os.fsync) -> None:
        """`sync` makes an open file safe against a power cut."""
        self.folder = folder
        self._sync = sync
        folder.mkdir(parents=True, exist_ok=True)

    def facts(self, number: int) -> ShardFacts | None:
        """Facts of a complete shard; None if it is not there, or not whole."""
        with suppress(OSError, ValidationError):
            facts = _FACTS.validate_json(self._path(number, "json").read_bytes())
            if self._path(number, "tokens").stat().st_size == 4 * facts.tokens:
                return facts
        return None

    def complete(self) -> Iterator[ShardFacts]:
        """Facts of all complete shards."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("*.json"))
        yield from (facts for facts in map(self.facts, numbers) if facts is not None)

    def lengths(self, number: int) -> NDArray[np.int64]:
        """Tokens of each document of a shard."""
        return self._array(number, "lengths").astype(np.int64)

    def contents(self, number: int) -> NDArray[np.uint64]:
        """Hash of each document's content."""
        return self._array(number, "contents")

    def row_lengths(self, number: int) -> NDArray[np.int64]:
        """Tokens of each row before truncation, dropped ones too."""
        return self._array(number, "rows").astype(np.int64)

    def ids(self, number: int) -> NDArray[np.uint64]:
        """Hash of the `id` of each row that has one."""
        return self._array(number, "ids")

    def tokens(self, number: int, begin: int, end: int) -> NDArray[np.uint32]:
        """Tokens `begin`..`end` of a shard, with LEARNT set where they are learnt."""
        return np.fromfile(self._path(number, "tokens"), dtype=np.uint32, offset=4 * begin, count=end - begin)

    def write(self, number: int, facts: ShardFacts, entries: "Iterable[Entry]") -> None:
        """Write a shard; its counts of documents and tokens go into `facts` as they come."""
        lengths: list[int] = []
        contents: list[int] = []
        row_lengths: list[int] = []
        ids: list[int] = []
        with open(self._path(number, "tokens"), "wb") as tokens:
            for entry in entries:
                if entry.row_id is not None:
                    ids.append(entry.row_id)
                if entry.row_length is not None:
                    row_lengths.append(entry.row_length)
                if entry.document is not None:
                    _joined(entry.document).tofile(tokens)
                    lengths.append(len(entry.document.input_ids))
                    contents.append(entry.content)
            self._synced(tokens)
        with open(self._path(number, "npz"), "wb") as table:
            np.savez(
                table,
                lengths=np.array(lengths, dtype=np.uint32),
                contents=np.array(contents, dtype=np.uint64),
                rows=np.array(row_lengths, dtype=np.uint32),
                ids=np.array(ids, dtype=np.uint64),
            )
            self._synced(table)
        facts.documents, facts.tokens = len(lengths), sum(lengths)
        self._complete(number, facts)

    def _complete(self, number: int, facts: ShardFacts) -> None:
        target = self._path(number, "json")
        partial = target.with_suffix(".partial")
        with open(partial, "wb") as file:
            file.write(_FACTS.dump_json(facts))
            self._synced(file)
        os.replace(partial, target)

    def _synced(self, file: Any) -> None:
        file.flush()
        self._sync(file.fileno())

    def _array(self, number: int, name: str) -> NDArray[Any]:
        with np.load(self._path(number, "npz"), allow_pickle=False) as table:
            return np.asarray(table[name])

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{number:06d}.{ending}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of one row."""

    document: Document | None
    """None if the row is left out."""
    content: int
    row_length: int | None
    """None if the row could not be rendered."""
    row_id: int | None


def content_hash(document: Document) -> int:
    """Equal for documents with the same tokens of which the same are learnt."""
    return _hash(_joined(document).tobytes())


def row_id_hash(value: Any) -> int | None:
    """Hash of a row's `id`; None if it has none."""
    found = value.get("id") if isinstance(value, Mapping) else None
    return None if found is None else _hash(repr(found).encode("utf-8", errors="replace"))


def _joined(document: Document) -> NDArray[np.uint32]:
    return document.input_ids.astype(np.uint32) | (document.supervised.astype(np.uint32) << np.uint32(31))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

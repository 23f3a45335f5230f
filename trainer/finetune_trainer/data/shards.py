"""Input files become shards of documents, on all cores: a worker reads a piece of a file, renders, tokenizes, writes.

Between processes go places in files and counts, never rows or tokens. What is spooled depends on the files and the
options alone, not on the number of workers, and shards that are complete are not made again.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile

from finetune_contract import DatasetConfig, OverlongPolicy
from finetune_trainer.data.document import Document
from finetune_trainer.data.errors import RowProblem
from finetune_trainer.data.formats import Layout, found_layout
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.parallel import mapped
from finetune_trainer.data.readers import BrokenFileError, Piece, Reader, first_rows, reader_of
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.row import Row
from finetune_trainer.data.spool import MAX_NOTED, Entry, ShardFacts, Spool, content_hash, row_id_hash

LOG = logging.getLogger(__name__)

ROWS_PER_BATCH = 512
ROWS_TO_FIND_LAYOUT = 512
LOG_EVERY_ROWS = 100_000
SMALLEST_SHARD_BYTES, LARGEST_SHARD_BYTES = 1 << 16, 1 << 23
SHARDS_PER_DATASET = 64
"""A dataset that gives more shards of the largest size than this gets them; smaller ones get smaller shards."""


@dataclass(frozen=True, slots=True)
class Job:
    """A shard to be made."""

    number: int
    file: int
    piece: Piece


class ShardMaker:
    """Makes shards of the files, in this process or in a forked one."""

    def __init__(self, files: Sequence[InputFile], config: DatasetConfig, renderer: Renderer, spool: Spool) -> None:
        """Raises: PreparationError if a file cannot be read, or its columns fit no format."""
        self._config = config
        self._renderer = renderer
        self._spool = spool
        self._files = files
        self._shard_bytes = shard_bytes(sum(file.path.stat().st_size for file in files))
        self._readers: list[Reader] = [reader_of(file.path, file.name) for file in files]
        self._layouts: list[Layout] = [self._layout(number) for number in range(len(files))]

    def jobs(self) -> Iterator[Job]:
        """Every shard of the files, in order; of those that are complete only the ones after which one is missing."""
        number = 0
        for file, reader in enumerate(self._readers):
            done: Piece | None = None
            while (facts := self._spool.facts(number)) is not None and facts.file == file:
                done, number = facts.piece, number + 1
            for piece in reader.pieces(self._files[file].path, size=self._shard_bytes, after=done):
                yield Job(number, file, piece)
                number += 1

    def make(self, job: Job) -> ShardFacts:
        """Make one shard, unless it is complete."""
        known = self._spool.facts(job.number)
        if known is not None and (known.file, known.piece) == (job.file, job.piece):
            return known
        facts = ShardFacts(job.file, job.piece, broken=job.piece.broken)
        self._spool.write(job.number, facts, self._entries(job, facts))
        return facts

    def _layout(self, number: int) -> Layout:
        file, reader = self._files[number], self._readers[number]
        rows = first_rows(reader, file.path, count=ROWS_TO_FIND_LAYOUT)
        layout = found_layout([_without_nan(row) for row in rows], self._config, file.name)
        self._renderer.check(layout)
        return layout

    def _entries(self, job: Job, facts: ShardFacts) -> Iterator[Entry]:
        layout = self._layouts[job.file]
        for rows in self._batches(job, facts):
            for row, document in zip(rows, self._renderer.documents(layout, rows), strict=True):
                row_id = row_id_hash(row.value)
                if isinstance(document, RowProblem):
                    _note(facts, document)
                    yield Entry(None, 0, None, row_id)
                    continue
                facts.think_blocks += document.think_blocks
                fitted = _fitted(document, self._config, facts)
                yield Entry(fitted, content_hash(document), len(document.input_ids), row_id)

    def _batches(self, job: Job, facts: ShardFacts) -> Iterator[list[Row]]:
        """The rows of a piece; where it breaks, that is noted and there are no more."""
        batch: list[Row] = []
        try:
            for row in self._readers[job.file].rows(self._files[job.file].path, job.piece):
                facts.rows += 1
                batch.append(_without_nan(row))
                if len(batch) == ROWS_PER_BATCH:
                    yield batch
                    batch = []
        except BrokenFileError as error:
            facts.broken = error.broken
        if batch:
            yield batch


def made_shards(maker: ShardMaker, spool: Spool, *, workers: int) -> list[ShardFacts]:
    """The facts of all shards, in order; those that were missing have been made."""
    rows = tokens = 0
    for facts in mapped(maker.make, maker.jobs(), workers=workers):
        if (rows + facts.rows) // LOG_EVERY_ROWS > rows // LOG_EVERY_ROWS:
            LOG.info("tokenized: %s rows, %s tokens", f"{rows + facts.rows:,}", f"{tokens + facts.tokens:,}")
        rows, tokens = rows + facts.rows, tokens + facts.tokens
    found = (spool.facts(number) for number in count())
    return list(takewhile(lambda facts: facts is not None, found))  # type: ignore[arg-type] # mypy sees no narrowing


def shard_bytes(total: int) -> int:
    """Bytes of input per shard: few enough that every core has some, and that one which is lost is soon made again."""
    return min(max(total // SHARDS_PER_DATASET, SMALLEST_SHARD_BYTES), LARGEST_SHARD_BYTES)


def _fitted(document: Document, config: DatasetConfig, facts: ShardFacts) -> Document | None:
    """The document cut to `max_tokens` as the policy has it; None if it is left out."""
    length = len(document.input_ids)
    if length <= config.max_tokens:
        return document
    if config.overlong is OverlongPolicy.REFUSE:
        text = (
            f"{length:,} tokens, dataset.maxTokens allows {config.max_tokens:,}; raise it, shorten the row, or set "
            "dataset.overlong to Truncate or Drop"
        )
        _note(facts, RowProblem(document.row, document.line, text, "RowTooLong"))
        return None
    cut = document.first(config.max_tokens)
    if config.overlong is OverlongPolicy.DROP or not cut.supervised.any():
        facts.dropped += 1
        return None
    facts.truncated += 1
    return cut


def _note(facts: ShardFacts, problem: RowProblem) -> None:
    facts.bad_rows += 1
    facts.overlong_rows += problem.reason == "RowTooLong"
    if len(facts.problems) < MAX_NOTED:
        facts.problems.append(problem)


def _without_nan(row: Row) -> Row:
    """The row with None for every value that is not a number: how pandas writes that there is none."""
    if not isinstance(row.value, dict) or all(value == value for value in row.value.values()):
        return row
    return replace(row, value={name: value if value == value else None for name, value in row.value.items()})

"""Parquet through Arrow, row group by row group, so that a file of any size is read in bounded memory."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.readers.piece import Broken, Piece
from finetune_trainer.data.row import Row

ROWS_PER_BATCH = 512


def pieces(file: Path, *, size: int, after: Piece | None = None) -> Iterator[Piece]:
    """The file in pieces of about `size` bytes, `after` one if that is given.

    Raises: PreparationError if its end, which tells where everything is, cannot be read.
    """
    metadata = _opened(file).metadata
    total_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    step = max(1, metadata.num_rows * size // max(1, total_bytes))
    for begin in range(after.end if after else 0, metadata.num_rows, step):
        yield Piece(begin, min(begin + step, metadata.num_rows), None, None)


def rows(file: Path, piece: Piece) -> Iterator[Row]:
    """The rows of a piece, numbered from 1. Raises: BrokenFileError where the file cannot be read on."""
    number = 0
    try:
        for value in _values(_opened(file), piece):
            number += 1
            yield Row(number, None, value)
    except (ValueError, OSError) as error:  # Arrow's own errors are ValueErrors
        raise BrokenFileError(Broken(None, f"broken Parquet: {_words(error)}")) from error


class BrokenFileError(Exception):
    """A file that could be cut into pieces, and one of them cannot be read."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.text)
        self.broken = broken


def _values(opened: Any, piece: Piece) -> Iterator[Any]:
    groups = [opened.metadata.row_group(number).num_rows for number in range(opened.metadata.num_row_groups)]
    for number, (count, end) in enumerate(zip(groups, accumulate(groups), strict=True)):
        begin = end - count
        if begin < piece.end and end > piece.begin:
            yield from _values_of_group(opened, number, max(0, piece.begin - begin), min(count, piece.end - begin))


def _values_of_group(opened: Any, group: int, begin: int, end: int) -> Iterator[Any]:
    """Rows `begin`..`end` of a row group; those before are passed over without becoming Python objects."""
    at = 0
    for batch in opened.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=[group], use_threads=False):
        first, last = max(begin - at, 0), min(end - at, batch.num_rows)
        if first < last:
            yield from batch.slice(first, last - first).to_pylist()
        at += batch.num_rows
        if at >= end:
            return


def _opened(file: Path) -> Any:
    from pyarrow import parquet  # imported here: a JSON file, the usual case, need not wait for it

    try:
        return parquet.ParquetFile(file)
    except (ValueError, OSError) as error:
        raise PreparationError(
            "BadParquet",
            f"dataset: {file.name} cannot be read as Parquet: {_words(error)}; it may have been cut off: its table of "
            "contents comes last. Write or copy it anew, or bring the rows as JSON lines",
        ) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

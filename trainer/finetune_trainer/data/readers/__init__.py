"""Rows of dataset files. A file of any kind is cut into pieces, and a piece can be read without the rest.

The siblings, one for each kind of file, offer the same two functions:

    pieces(file, size=, after=)   where the pieces begin and end, in order, cheaply; `after` goes on behind a piece
    rows(file, piece)             the rows of one piece, numbered from 1
"""

import codecs
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.readers import csv_table, json_array, json_lines, parquet_table
from finetune_trainer.data.readers.parquet_table import BrokenFileError
from finetune_trainer.data.readers.piece import Broken, Piece
from finetune_trainer.data.row import Row

__all__ = ["SUFFIXES", "Broken", "BrokenFileError", "Piece", "Reader", "first_rows", "reader_of"]

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIX = ".parquet"
SUFFIXES = (*JSON_SUFFIXES, *CSV_SUFFIXES, PARQUET_SUFFIX)
"""Of files that are taken for rows where a folder or a repository is searched, apart from an additional `.gz`."""
_FIRST_BYTES = 1 << 18
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Reader(Protocol):
    """One of the siblings."""

    def pieces(self, file: Path, *, size: int, after: Piece | None = None) -> Iterator[Piece]:
        """The file in pieces of about `size` bytes, `after` one if that is given. Raises: PreparationError."""

    def rows(self, file: Path, piece: Piece) -> Iterator[Row]:
        """The rows of a piece, numbered from 1. Raises: BrokenFileError."""


def reader_of(file: Path, name: str) -> Reader:
    """The sibling that reads `file`: its first bytes tell Parquet and JSON, else the ending of `name` tells CSV.

    Raises: PreparationError if it is none of these.
    """
    with open(file, "rb") as stream:
        start = stream.read(4096)
        while start.isspace() and (more := stream.read(4096)):
            start = more
    if start.startswith(b"PAR1") or name.endswith(PARQUET_SUFFIX):
        return parquet_table
    if start.startswith(_UTF16):
        raise PreparationError("BadEncoding", f"dataset: {name} is UTF-16 text; save it as UTF-8")
    if name.endswith(CSV_SUFFIXES):
        return csv_table
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        return json_array
    if text.startswith(b"{") or not text or name.endswith(JSON_SUFFIXES):
        return json_lines
    raise PreparationError(
        "UnknownFile",
        f"dataset: {name} begins with {text[:20].decode('utf-8', errors='replace')!r}; expected a JSON array, JSON "
        f"lines, Parquet, or CSV with a name that ends with {' or '.join(CSV_SUFFIXES)}",
    )


def first_rows(reader: Reader, file: Path, *, count: int) -> list[Row]:
    """The first rows of a file, as far as it can be read."""
    found: list[Row] = []
    try:
        for piece in reader.pieces(file, size=_FIRST_BYTES):
            found += islice(reader.rows(file, piece), count - len(found))
            if len(found) == count:
                break
    except BrokenFileError:  # found again, and told, when the piece is read for its documents
        pass
    return found

"""CSV with a header: text cells separated by commas, semicolons or tabs, whichever the header has most of.

Read by the standard library's parser, which keeps every cell as it is written: libraries that guess types turn the
answers "NA" and "1.0" into something else. What is wrong with a quote can go over any number of lines, so reading ends
there; a row of too few or too many cells is one bad row.
"""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.data.readers.piece import Broken, Piece
from finetune_trainer.data.row import MAX_ROW_BYTES, Row, encoding_problem

SEPARATORS = ",;\t"


def pieces(file: Path, *, size: int, after: Piece | None = None) -> Iterator[Piece]:
    """The file in pieces of about `size` bytes, `after` one if that is given."""
    with open(file, "rb") as stream:
        separator = _separator(stream)
        lines = _Lines(stream, after)
        if after is None and (broken := _passed(_records(lines, separator), line=1)):  # the header
            yield Piece(lines.offset, lines.offset, 1, 1, broken)
            return
        yield from _pieces(lines, separator, size)


def rows(file: Path, piece: Piece) -> Iterator[Row]:
    """The rows of a piece, numbered from 1, as {column: text}."""
    assert piece.line is not None
    with open(file, "rb") as stream:
        separator = _separator(stream)
        columns = next(_records(_Lines(stream), separator), [])
        names = [name.encode("latin-1").decode("utf-8", errors="surrogateescape").strip() for name in columns]
        stream.seek(piece.begin)
        text = stream.read(piece.end - piece.begin).decode("utf-8", errors="surrogateescape")
    is_clean = encoding_problem(text) is None
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number, line = 0, piece.line
    for cells in reader:
        if cells:
            number += 1
            problem = None if is_clean else next(filter(None, map(encoding_problem, cells)), None)
            yield _row(number, line, names, cells, problem)
        line = piece.line + reader.line_num


def _row(number: int, line: int, names: list[str], cells: list[str], problem: str | None) -> Row:
    if len(cells) != len(names):
        problem = f"has {len(cells)} cells, and the header {len(names)}: {', '.join(names)[:80]}"
    return Row(number, line, None if problem else dict(zip(names, cells, strict=False)), problem)


def _pieces(lines: "_Lines", separator: str, size: int) -> Iterator[Piece]:
    records = _records(lines, separator)
    begin, line = lines.offset, lines.line
    while True:
        end, next_line = lines.offset, lines.line
        broken = _passed(records, next_line)
        if broken or lines.offset == end:
            if broken or end > begin:
                yield Piece(begin, end, line, next_line, broken)
            return
        if lines.offset >= begin + size:
            yield Piece(begin, lines.offset, line, lines.line)
            begin, line = lines.offset, lines.line


class _Lines:
    """Lines of a file as text that is good for finding separators and quotes alone, and how far they have been read."""

    def __init__(self, stream: BinaryIO, after: Piece | None = None) -> None:
        self.offset = after.end if after else _length_of_mark(stream)
        self.line = after.next_line if after and after.next_line else 1
        self._stream = stream
        stream.seek(self.offset)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._stream.readline()
        if not raw:
            raise StopIteration
        self.offset += len(raw)
        self.line += 1
        return raw.decode("latin-1")


def _records(lines: _Lines, separator: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    return csv.reader(lines, delimiter=separator, strict=True)


def _passed(records: Iterator[list[str]], line: int) -> Broken | None:
    """Pass over the record that begins in `line`; or say what is wrong with it. At the file's end nothing is wrong."""
    try:
        next(records, None)
    except csv.Error as error:
        return Broken(line, f"broken CSV: {error}; a quote inside of a quoted cell is written twice")
    return None


def _separator(stream: BinaryIO) -> str:
    stream.seek(_length_of_mark(stream))
    header = stream.readline().decode("latin-1")
    return max(SEPARATORS, key=header.count)


def _length_of_mark(stream: BinaryIO) -> int:
    stream.seek(0)
    return 3 if stream.read(3) == codecs.BOM_UTF8 else 0

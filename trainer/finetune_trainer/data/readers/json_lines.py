"""JSON lines: one object in every line that is not blank. Lines after a broken one are read on."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.data.readers.json_text import broken_words, decoded
from finetune_trainer.data.readers.piece import Broken, Piece
from finetune_trainer.data.row import MAX_ROW_BYTES, Row, encoding_problem

BLOCK_BYTES = 1 << 20


def pieces(file: Path, *, size: int, after: Piece | None = None, row_bytes: int = MAX_ROW_BYTES) -> Iterator[Piece]:
    """The file in pieces of about `size` bytes, `after` one if that is given; a row has at most `row_bytes`."""
    with open(file, "rb") as stream:
        begin, line = (after.end, after.next_line) if after else (_length_of_mark(stream), 1)
        assert line is not None
        if after is None and (broken := _not_lines(stream)):
            yield Piece(begin, begin, line, line, broken)
            return
        total = stream.seek(0, 2)
        while begin < total:
            end = _line_end(stream, min(begin + size, total), row_bytes)
            if end is None:
                last = line + _line_breaks(stream, begin, min(begin + size, total))
                yield Piece(begin, begin, line, line, Broken(last, f"a line of more than {row_bytes:,} bytes"))
                return
            lines = _line_breaks(stream, begin, end)
            yield Piece(begin, end, line, line + lines)
            begin, line = end, line + lines


def rows(file: Path, piece: Piece) -> Iterator[Row]:
    """The rows of a piece, numbered from 1."""
    assert piece.line is not None
    with open(file, "rb") as stream:
        stream.seek(piece.begin)
        data = stream.read(piece.end - piece.begin)
    number = 0
    for line, raw in enumerate(data.split(b"\n"), start=piece.line):
        if raw and not raw.isspace():
            number += 1
            yield _row(number, line, raw)


def _row(number: int, line: int, raw: bytes) -> Row:
    text = raw.decode("utf-8", errors="surrogateescape")
    if problem := encoding_problem(text):
        return Row(number, line, None, problem)
    begin = len(text) - len(text.lstrip())
    try:
        value, end = decoded(text, begin)
        if rest := text[end:].strip():
            raise json.JSONDecodeError("Extra data", text, text.index(rest, end))
    except json.JSONDecodeError as error:
        return Row(number, line, None, broken_words(error.msg, text, error.pos, column=error.pos + 1))
    return Row(number, line, value)


def _not_lines(stream: BinaryIO) -> Broken | None:
    """What is wrong with a file whose first line is a lone bracket: one object that goes over several lines."""
    stream.seek(_length_of_mark(stream))
    line = 1
    while (first := stream.readline(BLOCK_BYTES)) and first.isspace():
        line += 1
    if first.strip() != b"{":
        return None
    return Broken(
        line, "an object that goes over several lines; expected an array of objects, or one whole object in every line"
    )


def _line_end(stream: BinaryIO, offset: int, row_bytes: int) -> int | None:
    """Where the line ends that the byte before `offset` belongs to; None if that is too far away."""
    stream.seek(offset - 1)
    while (read := stream.readline(min(BLOCK_BYTES, row_bytes))) and not read.endswith(b"\n"):
        if stream.tell() - offset > row_bytes:
            return None
    return stream.tell()


def _line_breaks(stream: BinaryIO, begin: int, end: int) -> int:
    stream.seek(begin)
    count = 0
    while begin < end:
        block = stream.read(min(BLOCK_BYTES, end - begin))
        count += block.count(b"\n")
        begin += len(block)
    return count


def _length_of_mark(stream: BinaryIO) -> int:
    stream.seek(0)
    return 3 if stream.read(3) == codecs.BOM_UTF8 else 0

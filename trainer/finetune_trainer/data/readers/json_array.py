"""One JSON array of objects. After something broken in it nothing can be trusted, and reading ends there.

To find where elements begin, all of them are decoded once by whoever cuts the file into pieces; whoever reads a piece
decodes its elements again, which costs a few hundredths of what becomes of them afterwards.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.data.readers.json_text import broken_words, decoded
from finetune_trainer.data.readers.piece import Broken, Piece
from finetune_trainer.data.row import MAX_ROW_BYTES, Row, encoding_problem

CHUNK_BYTES = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def pieces(file: Path, *, size: int, after: Piece | None = None, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Piece]:
    """The file in pieces of about `size` bytes, `after` one if that is given. Memory does not grow with the file."""
    if after is not None and after.is_last:
        return
    with open(file, "rb") as stream:
        scanner = _Scanner(stream, after, chunk_bytes)
        if after is None:
            scanner.take("[")
            if scanner.peek() == "]":
                return
        yield from _pieces(scanner, size)


def rows(file: Path, piece: Piece) -> Iterator[Row]:
    """The rows of a piece, numbered from 1."""
    assert piece.line is not None
    with open(file, "rb") as stream:
        stream.seek(piece.begin)
        text = stream.read(piece.end - piece.begin).decode("utf-8", errors="surrogateescape")
    is_clean = encoding_problem(text) is None
    line, seen, number = piece.line, 0, 0
    begin = _skipped(_BETWEEN, text, 0)
    while begin < len(text) and text[begin] != "]":  # the last piece ends with the array
        value, end = decoded(text, begin)  # cannot fail: it was decoded when the file was cut
        line += text.count("\n", seen, begin)
        seen, number = begin, number + 1
        problem = None if is_clean else encoding_problem(text[begin:end])
        yield Row(number, line, None if problem else value, problem)
        begin = _skipped(_BETWEEN, text, end)


def _pieces(scanner: "_Scanner", size: int) -> Iterator[Piece]:
    scanner.peek()
    begin, line = scanner.offset, scanner.line
    while True:
        broken = scanner.pass_element() or scanner.pass_separator()
        is_last = scanner.is_done or broken is not None
        if is_last or scanner.offset >= begin + size:
            end = scanner.offset
            yield Piece(begin, end, line, scanner.line, broken, is_last)
            if is_last:
                return
            begin, line = end, scanner.line


class _Scanner:
    """Passes over one element after another in a window over the file, counting bytes and lines as it moves."""

    def __init__(self, stream: BinaryIO, after: Piece | None, chunk_bytes: int) -> None:
        self.line = after.next_line if after and after.next_line else 1
        self.is_done = False
        self._base = after.end if after else _length_of_mark(stream)  # byte of the character `_counted`
        self._line_start = -_characters_before(stream, self._base)  # relative to the window, for columns
        stream.seek(self._base)
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self._counted = 0  # characters of the window whose bytes are in `_base` already
        self._at_end = False

    @property
    def offset(self) -> int:
        """Byte of the file at which the scanner stands."""
        self._count()
        return self._base

    def pass_element(self) -> Broken | None:
        """Go to where the element that begins here ends; or stay, and say what is wrong with it."""
        while True:
            try:
                _, end = decoded(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut_off(error):
                    return self._broken(error.msg, error.pos)
            else:
                if end < len(self._text) or self._at_end:
                    self._advance(end)
                    return None
            if len(self._text) - self._at > MAX_ROW_BYTES:
                return self._broken(f"no end within {MAX_ROW_BYTES:,} characters", self._at)
            self._read()

    def pass_separator(self) -> Broken | None:
        """Go to the next element, or to the end of the file; or say what stands there instead."""
        if self.take(","):
            self.peek()
            return None
        if not self.take("]"):
            return self._broken("expected ',' or ']' after an element", self._at)
        self.is_done = True
        return self._broken("unexpected text after the closing ']'", self._at) if self.peek() else None

    def peek(self) -> str:
        """The next character that is not white space, without taking it; "" at the end of the file."""
        while True:
            self._advance(_skipped(_BLANK, self._text, self._at))
            if self._at < len(self._text):
                return self._text[self._at]
            if self._at_end:
                return ""
            self._read()

    def take(self, character: str) -> bool:
        """Pass over `character` if it comes next."""
        found = self.peek() == character
        if found:
            self._advance(self._at + 1)
        return found

    def _count(self) -> None:
        self._base += len(self._text[self._counted : self._at].encode("utf-8", errors="surrogateescape"))
        self._counted = self._at

    def _may_be_cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could mend the error: it stands at the window's edge, or in a string without an end."""
        at_edge = error.pos >= len(self._text) - 16
        return not self._at_end and (at_edge or error.msg.startswith("Unterminated string"))

    def _advance(self, position: int) -> None:
        self.line += self._text.count("\n", self._at, position)
        newline = self._text.rfind("\n", self._at, position)
        if newline >= 0:
            self._line_start = newline + 1
        self._at = position

    def _read(self) -> None:
        """Let go of what has been passed and double what is left, so that a long element costs linear time."""
        kept = self._text[self._at :]
        self._line_start -= self._at
        self._count()
        piece = self._stream.read(max(self._chunk_bytes, len(kept)))
        self._text, self._at, self._counted = kept + self._decoder.decode(piece, final=not piece), 0, 0
        self._at_end = not piece

    def _broken(self, message: str, position: int) -> Broken:
        line = self.line + self._text.count("\n", self._at, position)
        newline = self._text.rfind("\n", self._at, position)
        column = position - (newline + 1 if newline >= 0 else self._line_start) + 1
        return Broken(line, broken_words(message, self._text, position, column=column))


def _skipped(blank: re.Pattern[str], text: str, at: int) -> int:
    match = blank.match(text, at)
    assert match is not None, "both patterns match nothing at all"
    return match.end()


def _length_of_mark(stream: BinaryIO) -> int:
    stream.seek(0)
    return 3 if stream.read(3) == codecs.BOM_UTF8 else 0


def _characters_before(stream: BinaryIO, offset: int) -> int:
    """Characters of the line that `offset` stands in, up to there; of a long line, those at hand."""
    begin = max(0, offset - CHUNK_BYTES)
    stream.seek(begin)
    text = stream.read(offset - begin).removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    return len(text) - (text.rfind("\n") + 1)

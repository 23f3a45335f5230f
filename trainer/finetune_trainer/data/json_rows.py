"""Rows of a JSON file with the line each begins in: an array of objects, or JSON lines.

Files are read in pieces, so memory does not grow with the file. What is broken comes out as a row with a `problem`:
in JSON lines the lines after it are read on, in an array nothing after it can be trusted and reading ends.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

CHUNK_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 256 << 20
"""An array element that has not ended after this many characters is taken for a missing bracket."""

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset file, as found; rows and lines count from 1."""

    number: int
    line: int | None
    """None where a format has no lines."""
    value: Any
    problem: str | None = None
    """Why there is no value: broken JSON, with column and excerpt."""


def json_rows(path: Path, *, chunk_chars: int = CHUNK_CHARS) -> Iterator[Row]:
    """Every row of `path`; whether it is an array or JSON lines shows in its first character."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        first = _first_character(file)
        file.seek(0)
        if first == "[":
            yield from _ArrayScanner(file, chunk_chars).rows()
        else:
            yield from _line_rows(file)


def _first_character(file: TextIO) -> str:
    while piece := file.read(4096):
        if stripped := piece.lstrip():
            return stripped[0]
    return ""


def _line_rows(file: TextIO) -> Iterator[Row]:
    number = 0
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        number += 1
        if problem := encoding_problem(text):
            yield Row(number, line, None, problem)
            continue
        try:
            yield Row(number, line, json.loads(text))
        except json.JSONDecodeError as error:
            yield Row(number, line, None, _broken(error.msg, text, error.pos, column=error.pos + 1))


class _ArrayScanner:
    """Decodes one element after another from a window over the file, counting lines as the window moves."""

    def __init__(self, file: TextIO, chunk_chars: int) -> None:
        self._file = file
        self._chunk_chars = chunk_chars
        self._text = ""
        self._at = 0
        self._at_end = False
        self._line = 1
        self._line_start = 0  # where the current line began, relative to the window; negative once it has slid away

    def rows(self) -> Iterator[Row]:
        """The elements of the array, then whatever is wrong with the rest."""
        self._expect("[")
        number = 1
        if self._peek() == "]":
            return
        while True:
            row = self._element(number)
            yield row
            if row.problem:
                return
            if self._peek() == "]":
                self._expect("]")
                break
            if not self._expect(","):
                yield self._broken_row(number + 1, "expected ',' or ']' after an element", self._at)
                return
            number += 1
        if self._peek():
            yield self._broken_row(number + 1, "unexpected text after the closing ']'", self._at)

    def _element(self, number: int) -> Row:
        self._peek()  # moves to the element's first character
        line = self._line
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut_off(error):
                    return self._broken_row(number, error.msg, error.pos)
            else:
                if end < len(self._text) or self._at_end:
                    problem = encoding_problem(self._text[self._at : end])
                    self._advance(end)
                    return Row(number, line, None if problem else value, problem)
            if len(self._text) - self._at > MAX_ELEMENT_CHARS:
                return self._broken_row(number, f"no end within {MAX_ELEMENT_CHARS:,} characters", self._at)
            self._read()

    def _may_be_cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could mend the error: it stands at the window's edge, or in a string without an end."""
        at_edge = error.pos >= len(self._text) - 16
        return not self._at_end and (at_edge or error.msg.startswith("Unterminated string"))

    def _peek(self) -> str:
        """The next character that is not white space, without taking it; "" at the end of the file."""
        while True:
            match = _BLANK.match(self._text, self._at)
            assert match is not None
            self._advance(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if self._at_end:
                return ""
            self._read()

    def _expect(self, character: str) -> bool:
        found = self._peek() == character
        if found:
            self._advance(self._at + 1)
        return found

    def _advance(self, position: int) -> None:
        self._line += self._text.count("\n", self._at, position)
        newline = self._text.rfind("\n", self._at, position)
        if newline >= 0:
            self._line_start = newline + 1
        self._at = position

    def _read(self) -> None:
        """Let go of what has been decoded and double what is left, so that a long element costs linear time."""
        kept = self._text[self._at :]
        piece = self._file.read(max(self._chunk_chars, len(kept)))
        self._line_start -= self._at
        self._text, self._at = kept + piece, 0
        self._at_end = not piece

    def _broken_row(self, number: int, message: str, position: int) -> Row:
        line = self._line + self._text.count("\n", self._at, position)
        newline = self._text.rfind("\n", self._at, position)
        column = position - (newline + 1 if newline >= 0 else self._line_start) + 1
        return Row(number, line, None, _broken(message, self._text, position, column=column))


def _broken(message: str, text: str, position: int, *, column: int) -> str:
    before = text[max(0, position - 30) : position].rpartition("\n")[2].lstrip()
    after = text[position : position + 30].partition("\n")[0]
    message = message.removesuffix(" at")  # some of json's messages bring it
    return f"broken JSON: {message} at column {column}: {printable(before)}⟨here⟩{printable(after)}"


def encoding_problem(text: str) -> str | None:
    """What to say of text that held bytes which are not UTF-8; None if all is well."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        excerpt = printable(text[max(0, error.start - 20) : error.start])
        return f"not UTF-8 after {excerpt!r}; save the file as UTF-8"
    return None


def printable(text: str) -> str:
    """Text that any log can take: undecodable bytes become question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")

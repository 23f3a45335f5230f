"""A part of a dataset file that can be read by itself, whatever the kind of the file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Broken:
    """Why nothing after this place can be read; unlike a bad row, this takes an unknown number of rows with it."""

    line: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole rows of a file."""

    begin: int
    """Byte where the first row begins; in a columnar file the number of the first row, from 0."""
    end: int
    """Where the next piece begins."""
    line: int | None
    """Of `begin`, from 1; None where a format has no lines."""
    next_line: int | None
    """Of `end`."""
    broken: Broken | None = None
    """With the last piece of a file that breaks off."""
    is_last: bool = False
    """Where the place alone does not show it."""

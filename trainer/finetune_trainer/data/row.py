"""A row of a dataset file as it was found, and what can be wrong with its bytes."""

from dataclasses import dataclass
from typing import Any

MAX_ROW_BYTES = 256 << 20
"""A row that has not ended after so much is taken for a missing bracket, quote or line end."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset file, as found; rows and lines count from 1."""

    number: int
    line: int | None
    """None where a format has no lines."""
    value: Any
    problem: str | None = None
    """Why there is no value: broken JSON, with column and excerpt."""


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

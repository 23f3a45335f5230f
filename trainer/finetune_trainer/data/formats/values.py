"""Reads the values of a row; whatever is not what it should be becomes a RowError with field and value."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.formats.conversation import RowError

_SEEN_CHARS = 40
_KINDS = {
    str: "the text",
    bool: "the boolean",
    int: "the number",
    float: "the number",
    list: "the list",
    dict: "the object",
}


def mapping(value: Any, place: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise RowError(f"{place} is {seen(value)}; expected an object")
    return value


def require(columns: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse a row that lacks one of `names`; null is as good as absent."""
    missing = [name for name in names if columns.get(name) is None]
    if missing:
        found = ", ".join(sorted(str(name) for name, value in columns.items() if value is not None)) or "none"
        raise RowError(f"no {' and no '.join(missing)}; columns found: {found}")


def text(value: Any, place: str, *, may_be_blank: bool = False) -> str:
    """A text."""
    if not isinstance(value, str):
        raise RowError(f"{place} is {seen(value)}; expected text")
    if not may_be_blank and not value.strip():
        raise RowError(f"{place} is empty")
    return value


def optional_text(columns: Mapping[str, Any], name: str, place: str = "") -> str:
    """A text that may be absent, null or blank; then it is empty."""
    value = columns.get(name)
    found = "" if value is None else text(value, place + name, may_be_blank=True)
    return found if found.strip() else ""


def listing(value: Any, place: str, expected: str) -> Sequence[Any]:
    """A list; a cell of a table may hold it as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed_json(value, place)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(f"{place} is {seen(value)}; expected {expected}")
    return value


def optional_listing(columns: Mapping[str, Any], name: str, expected: str) -> Sequence[Any]:
    """A list that may be absent, null or an empty text; then it is empty."""
    value = columns.get(name)
    return () if value is None or value == "" else listing(value, name, expected)


def parsed_json(value: str, place: str) -> Any:
    """What a JSON text says; NaN and Infinity, which are no JSON, are refused."""
    try:
        return json.loads(value, parse_constant=_not_a_number)
    except ValueError as error:
        raise RowError(f"{place} is {seen(value)}, which is not JSON: {str(error)[:100]}") from error


def json_text(value: Any, place: str) -> str:
    """A value as JSON, as a chat template prints it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(f"{place} is {seen(value)}, which JSON cannot hold: {str(error)[:100]}") from error


def without_nulls(value: Any) -> Any:
    """`value` without the nulls in its objects: columnar files give every object the keys of all the others."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def seen(value: Any) -> str:
    """A value as an error shows it: its kind, and its beginning."""
    if value is None:
        return "missing or null"
    if isinstance(value, float) and math.isnan(value):
        return "NaN (an empty cell?)"
    return f"{_KINDS.get(type(value), type(value).__name__)} {_beginning(value)!r}"


def _beginning(value: Any) -> str:
    """Without writing out a list of a million items first."""
    if isinstance(value, str):
        return value[:_SEEN_CHARS]
    if isinstance(value, list) and len(value) > _SEEN_CHARS:
        value = value[:_SEEN_CHARS]
    return str(value)[:_SEEN_CHARS]


def _not_a_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")

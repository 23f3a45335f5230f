"""What a row of any format becomes: a conversation of turns, or a passage of plain text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]


class RowError(ValueError):
    """What is wrong with one row, in words that name field and value."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that an assistant makes."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None
    """What a result names to say which call it answers."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str
    reasoning: str = ""
    """Of an assistant: what stood in its think block."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant."""
    call_id: str | None = None
    """Of a tool: the call that it answers."""
    name: str | None = None
    """Of a tool: its name, where the row gives it."""
    is_learnt: bool = True
    """Of an assistant: False where the row says that this answer is context only."""


class Placed(NamedTuple):
    """A turn, and where in the row it stands."""

    place: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that end with the assistant's, and the tools that were at hand."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Each in OpenAI's form: {"type": "function", "function": {"name": ...}}."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Plain text that is learnt from end to end."""

    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that can be rendered."""

    row: int
    line: int | None
    content: Conversation | Passage

"""Rows of a dataset become conversations; whatever is not one is named with its row and line.

Alpaca rows hold instruction, input and output, and may hold system and history (earlier [user, assistant] pairs).
Messages rows hold OpenAI's list of {role, content}; an assistant may bring reasoning_content or a <think> block.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_contract import DatasetFormat
from finetune_trainer.data.errors import PreparationError, RowProblem, RowProblems
from finetune_trainer.data.json_rows import Row, encoding_problem

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")
FORMATS = "Alpaca (instruction, input, output; optional system, history) or Messages (messages)"

# Qwen's tokenizer joins line breaks to the one that ends the assistant header: the answer would then begin in the
# middle of a token that no serving prompt holds.
_LEADING_LINE_BREAKS = re.compile(r"\A\s*[\r\n]+")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str
    reasoning: str = ""
    """Of an assistant: what stood in its think block."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row that can be trained on: turns that end with the assistant's."""

    row: int
    line: int | None
    turns: tuple[Turn, ...]


class RowError(ValueError):
    """What is wrong with one row, in words that name field and value."""


def conversations(
    rows: Iterator[Row],
    dataset_format: DatasetFormat,
    problems: RowProblems,
    *,
    control_tokens: Collection[str],
) -> Iterator[Conversation]:
    """Every row that is a conversation; the others go to `problems`.

    Raises: PreparationError if the columns of the first row fit no format, or more than one.
    """
    layout: DatasetFormat | None = None if dataset_format is DatasetFormat.AUTO else dataset_format
    for row in rows:
        if row.problem:
            problems.add(RowProblem(row.number, row.line, row.problem, "BadJson"))
            continue
        try:
            columns = _mapping(row.value, "the row")
            layout = layout or detected_format(columns, problems.file)
            turns = _alpaca_turns(columns) if layout is DatasetFormat.ALPACA else _message_turns(columns)
            _refuse_control_tokens(turns, control_tokens)
            yield Conversation(row.number, row.line, turns)
        except RowError as error:
            problems.add(RowProblem(row.number, row.line, str(error)))


def detected_format(columns: Mapping[str, Any], file: str) -> DatasetFormat:
    """The one format that these columns belong to."""
    found = ", ".join(sorted(columns)) or "none"
    is_alpaca, is_messages = {"instruction", "output"} <= columns.keys(), "messages" in columns
    if is_alpaca and is_messages:
        raise PreparationError(
            "AmbiguousColumns",
            f"dataset.format: Auto cannot choose for {file} with columns {found}; set it to Alpaca or Messages",
        )
    if is_alpaca or is_messages:
        return DatasetFormat.ALPACA if is_alpaca else DatasetFormat.MESSAGES
    hint = ""
    if "conversations" in columns:
        hint = (
            "; for ShareGPT rows rename conversations to messages, from to role (human: user, gpt: assistant) and "
            "value to content"
        )
    raise PreparationError(
        "UnknownColumns",
        f"dataset.format: {file} has columns {found}; expected {FORMATS}{hint}",
    )


def _alpaca_turns(columns: Mapping[str, Any]) -> tuple[Turn, ...]:
    _require(columns, ("instruction", "output"))
    turns: list[Turn] = []
    if system := _optional_text(columns, "system"):
        turns.append(Turn("system", system))
    for number, pair in enumerate(_optional_list(columns, "history")):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError(f"history[{number}] is {_seen(pair)}; expected a pair [user, assistant]")
        user, assistant = (_text(text, f"history[{number}][{side}]") for side, text in enumerate(pair))
        turns += [Turn("user", user), _assistant(assistant, None, f"history[{number}][1]")]
    instruction = _text(columns["instruction"], "instruction", may_be_blank=True)
    question = "\n".join(part for part in (instruction, _optional_text(columns, "input")) if part.strip())
    if not question:
        raise RowError("instruction and input are both empty; the assistant would answer nothing")
    answer = _assistant(_text(columns["output"], "output"), None, "output")
    return (*turns, Turn("user", question), answer)


def _message_turns(columns: Mapping[str, Any]) -> tuple[Turn, ...]:
    _require(columns, ("messages",))
    messages = columns["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RowError(f"messages is {_seen(messages)}; expected a list of {{role, content}} that is not empty")
    turns = tuple(_message_turn(message, f"messages[{number}]") for number, message in enumerate(messages))
    _check_order([turn.role for turn in turns])
    return turns


def _message_turn(value: Any, place: str) -> Turn:
    message = _mapping(value, place)
    role = message.get("role")
    if role not in ROLES:
        raise RowError(f"{place}.role is {_seen(role)}; allowed are {', '.join(ROLES)}")
    for key in ("tool_calls", "function_call"):
        if message.get(key):
            raise RowError(f"{place}.{key} is not supported; write the call into content, or leave the row out")
    content = _text(message.get("content"), f"{place}.content")
    if role != "assistant":
        return Turn(role, content)
    return _assistant(content, _optional_text(message, "reasoning_content", f"{place}."), f"{place}.content")


def _check_order(roles: list[str]) -> None:
    """Qwen3's template renders an answer as serving does only where it follows a user's turn."""
    for number, role in enumerate(roles):
        before = roles[number - 1] if number else None
        if role == "system" and before is not None:
            raise RowError(f"messages[{number}].role is system; a system message may only come first")
        if role == "assistant" and before != "user":
            raise RowError(f"messages[{number}].role is assistant after {before or 'nothing'}; it must follow a user's")
    if roles[-1] != "assistant":
        raise RowError(f"the last turn is {roles[-1]}'s; it must be the assistant's, else there is nothing to learn")


def _assistant(content: str, reasoning: str | None, place: str) -> Turn:
    """An assistant's turn with its think block taken out of the content, as Qwen3's own template does it."""
    opened, closed = content.count("<think>"), content.count("</think>")
    if max(opened, closed) > 1 or opened > closed:
        raise RowError(f"{place} holds {opened} <think> and {closed} </think>; allowed is one block that is closed")
    if closed and reasoning:
        raise RowError(f"{place} holds a think block beside reasoning_content; keep one of the two")
    if closed:
        thought, content = content.split("</think>")
        reasoning = thought.split("<think>")[-1]
        if thought.split("<think>")[0].strip() and opened:
            raise RowError(f"{place} holds text before its think block, which the chat template would drop")
    content = _LEADING_LINE_BREAKS.sub("", content)
    if not content.strip():
        raise RowError(f"{place} is empty; an answer needs text to learn")
    return Turn("assistant", content, (reasoning or "").strip("\n"))


def _refuse_control_tokens(turns: Sequence[Turn], control_tokens: Collection[str]) -> None:
    for turn in turns:
        for text in (turn.content, turn.reasoning):
            if problem := encoding_problem(text):
                raise RowError(f"the {turn.role}'s text is {problem}")
            found = next((token for token in control_tokens if token in text), None) if "<|" in text else None
            if found:
                raise RowError(f"the {turn.role}'s text holds the control token {found}, which would forge a turn")


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RowError(f"{place} is {_seen(value)}; expected an object")
    return value


def _require(columns: Mapping[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if columns.get(name) is None]
    if missing:
        found = ", ".join(sorted(name for name, value in columns.items() if value is not None)) or "none"
        raise RowError(f"no {' and no '.join(missing)}; columns found: {found}")


def _text(value: Any, place: str, *, may_be_blank: bool = False) -> str:
    if not isinstance(value, str):
        raise RowError(f"{place} is {_seen(value)}; expected text")
    if not may_be_blank and not value.strip():
        raise RowError(f"{place} is empty")
    return value


def _optional_text(columns: Mapping[str, Any], name: str, place: str = "") -> str:
    value = columns.get(name)
    return "" if value is None else _text(value, place + name, may_be_blank=True)


def _optional_list(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = columns.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(f"{name} is {_seen(value)}; expected a list")
    return value


def _seen(value: Any) -> str:
    """A value as an error shows it: its kind, and its beginning."""
    if value is None:
        return "missing or null"
    kind = {
        str: "the text",
        bool: "the boolean",
        int: "the number",
        float: "the number",
        list: "the list",
        dict: "the object",
    }
    return f"{kind.get(type(value), type(value).__name__)} {str(value)[:40]!r}"

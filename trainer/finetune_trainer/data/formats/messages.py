"""Messages: OpenAI's list of {role, content}, with tools, tool calls and their results."""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.formats.assistant import assistant_turn
from finetune_trainer.data.formats.conversation import Conversation, Placed, RowError, Turn
from finetune_trainer.data.formats.order import check_order
from finetune_trainer.data.formats.tools import called_tool, check_calls, tools_of
from finetune_trainer.data.formats.values import listing, mapping, optional_text, seen, text

ROLES = ("system", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names that servers and data sets give an assistant's reasoning."""


def content(columns: Mapping[str, Any]) -> Conversation:
    """What a row of this format says.

    Raises: RowError.
    """
    turns = message_turns(columns["messages"], "messages")
    tools = tools_of(columns)
    check_order(turns)
    check_calls(turns, tools)
    return Conversation(tuple(turn for _, turn in turns), tools)


def message_turns(value: Any, column: str) -> list[Placed]:
    """The turns of a list of messages; a system message without text is as good as none."""
    messages = listing(value, column, "a list of {role, content}")
    if not messages:
        raise RowError(f"{column} is {seen(messages)}; expected a list of {{role, content}} that is not empty")
    placed = [
        Placed(place, message_turn(mapping(message, place), place))
        for place, message in ((f"{column}[{number}]", message) for number, message in enumerate(messages))
    ]
    return [each for each in placed if each.turn.role != "system" or each.turn.content]


def message_turn(message: Mapping[str, Any], place: str) -> Turn:
    """One message."""
    role = message.get("role")
    if role == "assistant":
        return _assistant_turn(message, place)
    _refuse_weight(message, place)
    if role == "tool":
        said = _unwrapped(_said(message.get("content"), f"{place}.content", may_be_blank=True), f"{place}.content")
        call_id, name = (_optional_name(message, key, place) for key in ("tool_call_id", "name"))
        return Turn("tool", said, call_id=call_id, name=name)
    if role == "system":
        said = _said(message.get("content"), f"{place}.content", may_be_blank=True)
        return Turn("system", said if said.strip() else "")
    if role == "user":
        return Turn("user", _said(message.get("content"), f"{place}.content"))
    raise RowError(f"{place}.role is {seen(role)}; allowed are {', '.join(ROLES)}")


def _assistant_turn(message: Mapping[str, Any], place: str) -> Turn:
    if message.get("function_call"):
        raise RowError(f"{place}.function_call is OpenAI's old form; write it as tool_calls, its result as role tool")
    given = message.get("tool_calls")
    calls = tuple(
        called_tool(call, f"{place}.tool_calls[{number}]")
        for number, call in enumerate(
            () if given is None else listing(given, f"{place}.tool_calls", "a list of {id, type, function}")
        )
    )
    value = message.get("content")
    said = "" if value is None and calls else _said(value, f"{place}.content", may_be_blank=bool(calls))
    return assistant_turn(
        said,
        f"{place}.content",
        reasoning=_reasoning(message, place),
        tool_calls=calls,
        is_learnt=_is_learnt(message, place),
    )


def _said(value: Any, place: str, *, may_be_blank: bool = False) -> str:
    """A message's text; text parts are joined by line breaks, as vLLM does it for templates that take text alone."""
    if isinstance(value, list):
        value = "\n".join(_part(part, f"{place}[{number}]") for number, part in enumerate(value))
    return text(value, place, may_be_blank=may_be_blank)


def _unwrapped(result: str, place: str) -> str:
    """A tool's result without the tags that the chat template puts around it."""
    opening, closing = "<tool_response>", "</tool_response>"
    if opening not in result and closing not in result:
        return result
    inner = result.strip().removeprefix(opening).removesuffix(closing)
    if len(inner) + len(opening) + len(closing) != len(result.strip()) or "tool_response>" in inner:
        raise RowError(f"{place} holds {opening} tags, which the template adds; give every result a message of its own")
    return inner.strip("\n")


def _part(value: Any, place: str) -> str:
    part = mapping(value, place)
    if part.get("type") != "text":
        raise RowError(f"{place}.type is {seen(part.get('type'))}; allowed is text, since the model reads nothing else")
    return text(part.get("text"), f"{place}.text", may_be_blank=True)


def _reasoning(message: Mapping[str, Any], place: str) -> str:
    found = {name: said for name in REASONING if (said := optional_text(message, name, f"{place}."))}
    if len(set(found.values())) > 1:
        raise RowError(f"{place} has {' and '.join(found)}, which differ; keep one of them")
    return next(iter(found.values()), "")


def _is_learnt(message: Mapping[str, Any], place: str) -> bool:
    """OpenAI's `weight` of an assistant's message: 0 makes it context only."""
    weight = message.get("weight")
    if weight is not None and weight not in (0, 1):
        raise RowError(f"{place}.weight is {seen(weight)}; allowed are 0 (context only) and 1 (learnt)")
    return weight is None or bool(weight)


def _refuse_weight(message: Mapping[str, Any], place: str) -> None:
    if message.get("weight"):
        raise RowError(f"{place}.weight is {seen(message['weight'])}; only what the assistant says can be learnt")


def _optional_name(message: Mapping[str, Any], key: str, place: str) -> str | None:
    value = message.get(key)
    return None if value is None else text(value, f"{place}.{key}")

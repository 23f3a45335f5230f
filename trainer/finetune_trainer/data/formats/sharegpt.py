"""ShareGPT: conversations, a list of {from, value}, with LLaMA-Factory's calls (function_call, observation).

Some data sets spell from and value as role and content; each message may do so.
"""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.formats.assistant import assistant_turn
from finetune_trainer.data.formats.conversation import Conversation, Placed, Role, RowError, ToolCall, Turn
from finetune_trainer.data.formats.messages import message_turn
from finetune_trainer.data.formats.order import check_order
from finetune_trainer.data.formats.tools import called_tool, check_calls, tools_of
from finetune_trainer.data.formats.values import listing, mapping, optional_text, parsed_json, seen, text

SPEAKERS: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
CALLER = "function_call"
"""An assistant that says nothing and calls: its value is the call, or a list of calls, as JSON text."""


def content(columns: Mapping[str, Any]) -> Conversation:
    """What a row of this format says.

    Raises: RowError.
    """
    expected = "a list of {from, value} that is not empty"
    messages = listing(columns["conversations"], "conversations", expected)
    if not messages:
        raise RowError(f"conversations is {seen(messages)}; expected {expected}")
    places = (f"conversations[{number}]" for number in range(len(messages)))
    turns = [Placed(place, _turn(mapping(message, place), place)) for place, message in zip(places, messages)]  # noqa: B905 - one place each
    turns = [each for each in turns if each.turn.role != "system" or each.turn.content]
    if system := optional_text(columns, "system"):
        if turns and turns[0].turn.role == "system":
            raise RowError("system stands beside a system message in conversations; keep one of the two")
        turns.insert(0, Placed("system", Turn("system", system)))
    tools = tools_of(columns)
    check_order(turns)
    check_calls(turns, tools)
    return Conversation(tuple(turn for _, turn in turns), tools)


def _turn(message: Mapping[str, Any], place: str) -> Turn:
    who, said = ("role", "content") if "from" not in message and "role" in message else ("from", "value")
    speaker = message.get(who)
    if speaker == CALLER:
        return _call_turn(text(message.get(said), f"{place}.{said}"), f"{place}.{said}")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        allowed = ", ".join((*SPEAKERS, CALLER))
        raise RowError(f"{place}.{who} is {seen(speaker)}; allowed are {allowed}")
    spelled = {**message, "role": SPEAKERS[speaker], "content": message.get(said)}
    try:
        return message_turn(spelled, place)
    except RowError as error:  # the error names the field as the row spells it
        raise RowError(str(error).replace(f"{place}.content", f"{place}.{said}")) from error


def _call_turn(value: str, place: str) -> Turn:
    """LLaMA-Factory's function_call, which may stand behind a think block."""
    thought, closed, call = value.rpartition("</think>")
    parsed = parsed_json(call, place)
    calls: tuple[ToolCall, ...] = tuple(
        called_tool(each, f"{place}[{number}]")
        for number, each in enumerate(parsed if isinstance(parsed, list) else [parsed])
    )
    if not calls:
        raise RowError(f"{place} is {seen(value)}; expected a call {{name, arguments}}, or a list of them")
    return assistant_turn(thought + closed, place, tool_calls=calls)

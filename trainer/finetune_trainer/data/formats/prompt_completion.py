"""PromptCompletion: prompt and completion, both text (one user turn, one answer) or both lists of messages.

Of a prompt nothing is learnt: an answer in it is context, as in TRL, where the format comes from.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_trainer.data.formats.assistant import assistant_turn
from finetune_trainer.data.formats.conversation import Conversation, Placed, RowError, Turn
from finetune_trainer.data.formats.messages import message_turns
from finetune_trainer.data.formats.order import check_order
from finetune_trainer.data.formats.tools import check_calls, tools_of
from finetune_trainer.data.formats.values import parsed_json, seen, text


def content(columns: Mapping[str, Any]) -> Conversation:
    """What a row of this format says.

    Raises: RowError.
    """
    prompt, completion = (_read(columns[name], name) for name in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise RowError(
            f"prompt is {seen(prompt)} and completion is {seen(completion)}; expected both as text, or both as lists "
            "of messages"
        )
    turns = _spoken(prompt, completion) if isinstance(prompt, str) else _listed(prompt, completion)
    tools = tools_of(columns)
    check_order(turns)
    check_calls(turns, tools)
    return Conversation(tuple(turn for _, turn in turns), tools)


def _read(value: Any, name: str) -> Any:
    """The value; a cell of a table may hold a list of messages as JSON text."""
    looks_listed = isinstance(value, str) and value.lstrip().startswith("[{") and '"role"' in value
    return parsed_json(value, name) if looks_listed else value


def _spoken(prompt: Any, completion: Any) -> list[Placed]:
    return [
        Placed("prompt", Turn("user", text(prompt, "prompt"))),
        Placed("completion", assistant_turn(text(completion, "completion"), "completion")),
    ]


def _listed(prompt: Any, completion: Any) -> list[Placed]:
    context = [
        Placed(place, replace(turn, is_learnt=turn.role != "assistant"))
        for place, turn in message_turns(prompt, "prompt")
    ]
    return [*context, *message_turns(completion, "completion")]

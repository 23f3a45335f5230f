"""Alpaca: instruction, input, output; system, tools, and history, a list of earlier [user, assistant] pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.formats.assistant import assistant_turn
from finetune_trainer.data.formats.conversation import Conversation, RowError, Turn
from finetune_trainer.data.formats.tools import tools_of
from finetune_trainer.data.formats.values import listing, optional_listing, optional_text, seen, text


def content(columns: Mapping[str, Any]) -> Conversation:
    """What a row of this format says.

    Raises: RowError.
    """
    turns: list[Turn] = []
    if system := optional_text(columns, "system"):
        turns.append(Turn("system", system))
    for number, pair in enumerate(optional_listing(columns, "history", "a list of [user, assistant] pairs")):
        turns += _pair(pair, f"history[{number}]")
    instruction = text(columns["instruction"], "instruction", may_be_blank=True)
    question = "\n".join(part for part in (instruction, optional_text(columns, "input")) if part.strip())
    if not question:
        raise RowError("instruction and input are both empty; the assistant would answer nothing")
    answer = assistant_turn(text(columns["output"], "output"), "output")
    return Conversation((*turns, Turn("user", question), answer), tools_of(columns))


def _pair(value: Any, place: str) -> tuple[Turn, Turn]:
    pair: Sequence[Any] = listing(value, place, "a pair [user, assistant]")
    if len(pair) != 2:
        raise RowError(f"{place} is {seen(pair)}; expected a pair [user, assistant]")
    user, assistant = (text(said, f"{place}[{side}]") for side, said in enumerate(pair))
    return Turn("user", user), assistant_turn(assistant, f"{place}[1]")

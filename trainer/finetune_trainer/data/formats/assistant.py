"""An assistant's turn, with its reasoning told apart from its answer as Qwen3's own template does it."""

import re

from finetune_trainer.data.formats.conversation import RowError, ToolCall, Turn

# Qwen's tokenizer joins line breaks to the one that ends the assistant's header or the opening of its think block: the
# answer would then begin in the middle of a token that no serving prompt holds.
_LEADING_LINE_BREAKS = re.compile(r"\A\s*[\r\n]+")


def assistant_turn(
    content: str,
    place: str,
    *,
    reasoning: str = "",
    tool_calls: tuple[ToolCall, ...] = (),
    is_learnt: bool = True,
) -> Turn:
    """The turn; `reasoning` is what the row gives beside the content, which may hold a think block instead.

    Raises: RowError if there is neither an answer nor a call, or the think block is not one closed block in front.
    """
    thought, answer = _without_think_block(content, place)
    if thought is not None and reasoning:
        raise RowError(f"{place} holds a think block beside reasoning_content; keep one of the two")
    answer = _LEADING_LINE_BREAKS.sub("", answer)
    if not answer.strip():
        if not tool_calls:
            raise RowError(f"{place} is empty; an answer needs text to learn")
        answer = ""
    return Turn("assistant", answer, _trimmed(thought or reasoning), tool_calls, is_learnt=is_learnt)


def _without_think_block(content: str, place: str) -> tuple[str | None, str]:
    """What stands in the think block (None: there is none), and what stands behind it."""
    opened, closed = content.count("<think>"), content.count("</think>")
    if max(opened, closed) > 1 or opened > closed:
        raise RowError(f"{place} holds {opened} <think> and {closed} </think>; allowed is one block that is closed")
    if not closed:
        return None, content
    before, answer = content.split("</think>")
    outside, _, thought = before.rpartition("<think>")
    if outside.strip() or "<think>" in answer:
        raise RowError(f"{place} holds text before its think block, which the chat template would drop")
    return thought, answer


def _trimmed(reasoning: str) -> str:
    """As the template trims it, and without what would join the line break that opens the block."""
    return _LEADING_LINE_BREAKS.sub("", reasoning).strip("\n") if reasoning.strip() else ""

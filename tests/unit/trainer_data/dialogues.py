"""Conversations that hypothesis makes up, as a row holds them and as they are meant."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from unit.trainer_data.rows import CONTROL, WEATHER, assistant, system, tool, user

NASTY = (
    "\n", "\r\n", " ", "  ", "\t", "\u2028", "\x85", "甄嬛", "👩‍👩‍👧", "e\u0301", "\u0301", "ﬁ",
    "assistant\n", "<|im_", "start|>", "<think", "/think>",
    "{", '"', "\\", "}", "</s>", "user", "1", "42", "'s", "<", ">",
)  # fmt: skip
"""Fragments that tokenizers and templates have stumbled over."""

CHARACTERS = st.characters(exclude_categories=["Cs"])
_PIECES = st.lists(st.sampled_from(NASTY) | st.text(CHARACTERS, max_size=6), min_size=1, max_size=5)
TEXTS = _PIECES.map("".join).filter(lambda text: bool(text.strip()) and is_harmless(text))
"""Texts of a user or a tool."""
CORES = TEXTS.map(str.strip)
"""Texts without white space at their ends."""


def is_harmless(text: str) -> bool:
    """Whether a text holds neither a control token nor a think tag."""
    return not any(token in text for token in (*CONTROL, "<think>", "</think>"))


@dataclass(frozen=True)
class Dialogue:
    """A conversation: `row` as a dataset holds it, `messages` as they are meant."""

    row: dict[str, Any]
    messages: list[dict[str, Any]]

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        tools: list[dict[str, Any]] | None = self.row.get("tools")
        return tools

    @property
    def last_user(self) -> int:
        """Number of the last user message."""
        return max(number for number, message in enumerate(self.messages) if message["role"] == "user")


@st.composite
def answers(draw: st.DrawFn, *, calls: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """An assistant's message in a row, and as it is meant."""
    content = draw(st.sampled_from(["", " ", "\t  "])) + draw(CORES) + draw(st.sampled_from(["", "\n", "  "]))
    if calls and draw(st.booleans()):
        content = ""
    reasoning = draw(st.just("") | CORES.map(lambda text: f"{text} "))
    arguments = [draw(st.dictionaries(CORES, CORES | st.integers() | st.none(), max_size=2)) for _ in range(calls)]
    meant = assistant(content)
    row = assistant(draw(st.sampled_from(["", "\n", " \r\n\n", "    \n"])) + content)
    if reasoning:
        meant["reasoning_content"] = reasoning
        if draw(st.booleans()):
            row["reasoning_content"] = draw(st.sampled_from(["", "\n", "    \n"])) + reasoning + "\n"
        else:
            row["content"] = f"<think>\n{reasoning}\n</think>\n\n{row['content']}"
    elif draw(st.booleans()):
        row["content"] = f"<think>\n\n</think>\n\n{row['content']}"
    if calls:
        meant["tool_calls"] = [
            {"type": "function", "function": {"name": "weather", "arguments": each}} for each in arguments
        ]
        row["tool_calls"] = [
            {"id": str(number), "function": {"name": "weather", "arguments": json.dumps(each) if number else each}}
            for number, each in enumerate(arguments)
        ]
        if not row["content"]:
            row["content"] = None
    return row, meant


@st.composite
def dialogues(draw: st.DrawFn, *, with_tools: bool = True) -> Dialogue:
    """One to three exchanges, perhaps with calls of a tool on the way to an answer."""
    said: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if draw(st.booleans()):
        said.append((message := system(draw(TEXTS)), message))
    has_tools = with_tools and draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        said += [(message := user(draw(TEXTS)), message) for _ in range(draw(st.sampled_from([1, 1, 1, 2])))]
        for _ in range(draw(st.integers(0, 2)) if has_tools else 0):
            calls = draw(st.integers(1, 2))
            said.append(draw(answers(calls=calls)))
            said += [(tool(result, tool_call_id=str(n)), tool(result)) for n in range(calls) if (result := draw(TEXTS))]
        said.append(draw(answers()))
    row: dict[str, Any] = {"messages": [message for message, _ in said]}
    return Dialogue(row | ({"tools": [WEATHER]} if has_tools else {}), [message for _, message in said])

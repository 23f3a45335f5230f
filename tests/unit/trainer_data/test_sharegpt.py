"""ShareGPT's conversations, in LLaMA-Factory's conventions."""

from typing import Any

import pytest

from finetune_contract import DatasetFormat
from finetune_trainer.data.formats import ToolCall, Turn
from unit.trainer_data.rows import WEATHER, content_of

SHARE_GPT = DatasetFormat.SHARE_GPT


def said(who: str, value: Any) -> dict[str, Any]:
    return {"from": who, "value": value}


def test_speakers_become_roles() -> None:
    row = {"conversations": [said("system", "s"), said("human", "q"), said("gpt", "<think>hm</think>a")]}
    wanted = (Turn("system", "s"), Turn("user", "q"), Turn("assistant", "a", "hm"))
    assert content_of(row, SHARE_GPT).turns == wanted


def test_role_and_content_are_another_spelling() -> None:
    row = {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert content_of(row, SHARE_GPT).turns == (Turn("user", "q"), Turn("assistant", "a"))


def test_system_and_tools_may_be_columns() -> None:
    row = {"conversations": [said("human", "q"), said("gpt", "a")], "system": "s", "tools": '[{"name": "weather"}]'}
    content = content_of(row, SHARE_GPT)
    assert content.turns[0] == Turn("system", "s")
    assert content.tools == ({"type": "function", "function": {"name": "weather"}},)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("thought", ["", "<think>\nhm\n</think>\n\n"])
def test_a_function_call_is_an_answer_that_says_nothing(listed: bool, thought: str) -> None:
    text = '{"name": "weather", "arguments": {"city": "Paris"}}'
    row = {
        "conversations": [
            said("human", "q"), said("function_call", thought + (f"[{text}]" if listed else text)),
            said("observation", "sun"), said("gpt", "Sunny."),
        ],
        "tools": [WEATHER],
    }  # fmt: skip
    turns = content_of(row, SHARE_GPT).turns
    assert turns[1] == Turn("assistant", "", "hm" if thought else "", (ToolCall("weather", {"city": "Paris"}),))
    assert turns[2] == Turn("tool", "sun")


def test_one_observation_may_answer_several_calls_that_have_no_ids() -> None:
    calls = '[{"name": "weather", "arguments": {}}, {"name": "weather", "arguments": {}}]'
    row = {
        "conversations": [said("human", "q"), said("function_call", calls), said("tool", "x"), said("gpt", "a")],
        "tools": [WEATHER],
    }
    assert len(content_of(row, SHARE_GPT).turns[1].tool_calls) == 2


@pytest.mark.parametrize(
    ("conversations", "columns", "problem"),
    [
        ([], {}, "conversations is the list '[]'; expected a list of {from, value} that is not empty"),
        (
            [said("human", "q"), said("bard", "a")],
            {},
            "conversations[1].from is the text 'bard'; allowed are system, human",
        ),
        ([said("human", "q"), {"value": "a"}], {}, "conversations[1].from is missing or null; allowed are"),
        ([said("human", "q"), said("gpt", None)], {}, "conversations[1].value is missing or null; expected text"),
        ([said("human", "q"), {"role": "assistant", "content": 1}], {}, "conversations[1].content is the number '1'"),
        ([said("gpt", "a")], {}, "conversations[0].role is assistant after nothing"),
        ([said("human", "q")], {}, "the last turn is user's"),
        ([said("system", "s"), said("human", "q"), said("gpt", "a")], {"system": "t"}, "system stands beside a system"),
        (
            [said("human", "q"), said("function_call", "weather()")],
            {},
            "conversations[1].value is the text 'weather()', wh",
        ),
        (
            [said("human", "q"), said("function_call", "[]")],
            {},
            "conversations[1].value is the text '[]'; expected a call",
        ),
        (
            [said("human", "q"), said("function_call", '{"name": "x", "arguments": {}}')],
            {},
            "conversations[1].tool_calls[0]",
        ),
    ],
)
def test_a_bad_row_is_named(conversations: Any, columns: dict[str, Any], problem: str) -> None:
    assert problem in content_of({"conversations": conversations, "tools": [WEATHER], **columns}, SHARE_GPT)

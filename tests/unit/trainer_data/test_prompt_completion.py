"""Prompt and completion, as text or as messages."""

from typing import Any

import pytest

from finetune_contract import DatasetFormat
from finetune_trainer.data.formats import Turn
from unit.trainer_data.rows import WEATHER, assistant, call, content_of, system, tool, user

PROMPT_COMPLETION = DatasetFormat.PROMPT_COMPLETION


def test_texts_are_a_user_turn_and_an_answer() -> None:
    content = content_of({"prompt": "q", "completion": "<think>hm</think>a"}, PROMPT_COMPLETION)
    assert content.turns == (Turn("user", "q"), Turn("assistant", "a", "hm"))


def test_answers_of_a_prompt_are_context() -> None:
    row = {"prompt": [system("s"), user("q"), assistant("a"), user("r")], "completion": [assistant("b")]}
    turns = content_of(row, PROMPT_COMPLETION).turns
    assert [(turn.role, turn.is_learnt) for turn in turns if turn.role == "assistant"] == [
        ("assistant", False),
        ("assistant", True),
    ]


def test_a_completion_may_call_tools() -> None:
    completion = [assistant(None, tool_calls=[call()]), tool("sun"), assistant("Sunny.")]
    turns = content_of({"prompt": [user("q")], "completion": completion, "tools": [WEATHER]}, PROMPT_COMPLETION).turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]


def test_lists_may_be_json_text() -> None:
    row = {"prompt": '[{"role": "user", "content": "q"}]', "completion": '[{"role": "assistant", "content": "a"}]'}
    assert content_of(row, PROMPT_COMPLETION).turns == (Turn("user", "q"), Turn("assistant", "a", is_learnt=True))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q"}, "no completion; columns found: prompt"),
        ({"prompt": "q", "completion": [assistant("a")]}, "prompt is the text 'q' and completion is the list"),
        ({"prompt": " ", "completion": "a"}, "prompt is empty"),
        ({"prompt": "q", "completion": "\n"}, "completion is empty"),
        ({"prompt": 1, "completion": 2}, "prompt is the number '1'; expected a list of {role, content}"),
        ({"prompt": [user("q")], "completion": []}, "completion is the list '[]'"),
        ({"prompt": [user("q")], "completion": [user("q")]}, "the last turn is user's"),
        ({"prompt": [assistant("a")], "completion": [user("q")]}, "prompt[0].role is assistant after nothing"),
        ({"prompt": [user("q")], "completion": [system("s"), assistant("a")]}, "completion[0].role is system"),
    ],
)
def test_a_bad_row_is_named(row: Any, said: str) -> None:
    assert said in content_of(row, PROMPT_COMPLETION)

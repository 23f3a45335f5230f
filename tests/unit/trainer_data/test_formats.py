"""Alpaca rows, plain text, and what every format refuses: named with row, line, field and value."""

from typing import Any

import pytest

from finetune_contract import DatasetFormat
from finetune_trainer.data.formats import Passage, ToolCall, Turn
from finetune_trainer.data.formats.conversation import Placed
from finetune_trainer.data.formats.tools import check_calls
from unit.trainer_data.rows import WEATHER, assistant, call, content_of, user

ALPACA = DatasetFormat.ALPACA


def test_instruction_and_input_are_joined_by_a_newline() -> None:
    row = {"instruction": "Translate", "input": "早", "output": "Morning"}
    assert content_of(row, ALPACA).turns == (Turn("user", "Translate\n早"), Turn("assistant", "Morning"))


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_input_adds_nothing(empty: str | None) -> None:
    row = {"instruction": "Hi", "input": empty, "system": empty, "history": "" if empty else None, "output": "Ho"}
    assert content_of(row, ALPACA).turns == (Turn("user", "Hi"), Turn("assistant", "Ho"))


@pytest.mark.parametrize("history", [[["a", "b"], ["c", "d"]], '[["a", "b"], ["c", "d"]]'])
def test_system_and_history_come_first(history: Any) -> None:
    row = {"system": "You are 甄嬛", "history": history, "instruction": "e", "output": "f"}
    turns = content_of(row, ALPACA).turns
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 3]
    assert [turn.content for turn in turns] == ["You are 甄嬛", "a", "b", "c", "d", "e", "f"]


def test_tools_are_at_hand_in_every_conversation() -> None:
    assert content_of({"instruction": "q", "output": "a", "tools": [WEATHER]}, ALPACA).tools == (WEATHER,)


@pytest.mark.parametrize(
    ("content", "turn"),
    [
        ("<think>\nhm\n</think>\n\nso", Turn("assistant", "so", "hm")),
        ("hm\n</think>\n\nso", Turn("assistant", "so", "hm")),
        ("<think>\n\n</think>\n\nso", Turn("assistant", "so", "")),
        ("<think>\n \n</think>\n\nso", Turn("assistant", "so", "")),
        (" \n<think> \n\n  hm \n</think>so", Turn("assistant", "so", "  hm ")),
        ("\n \nso\n", Turn("assistant", "so\n", "")),
        ("    indented", Turn("assistant", "    indented", "")),
    ],
)
def test_a_think_block_is_taken_out_of_the_content(content: str, turn: Turn) -> None:
    assert content_of({"instruction": "q", "output": content}, ALPACA).turns[-1] == turn


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "q"}, "no output; columns found: instruction"),
        ({"instruction": "q", "output": None}, "no output; columns found: instruction"),
        ({"output": "a"}, "no instruction; columns found: output"),
        ({"instruction": "q", "output": " \n"}, "output is empty"),
        ({"instruction": "q", "output": "<think>hm</think>"}, "output is empty; an answer needs text to learn"),
        ({"instruction": "q", "output": "<think>hm"}, "output holds 1 <think> and 0 </think>"),
        ({"instruction": "q", "output": "so <think>hm</think> on"}, "output holds text before its think block"),
        ({"instruction": "q", "output": "hm</think>so<think>"}, "output holds text before its think block"),
        ({"instruction": "q", "output": 42}, "output is the number '42'; expected text"),
        ({"instruction": "q", "output": float("nan")}, "output is NaN (an empty cell?); expected text"),
        ({"instruction": ["q"], "output": "a"}, "instruction is the list \"['q']\"; expected text"),
        ({"instruction": "", "input": "", "output": "a"}, "instruction and input are both empty"),
        ({"instruction": "q", "output": "a", "history": "x"}, "history is the text 'x'; expected a list"),
        ({"instruction": "q", "output": "a", "history": "[x"}, "history is the text '[x', which is not JSON"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "history[0] is the list \"['x']\"; expected a pair"),
        ({"instruction": "q", "output": "a", "history": ["xy"]}, "history[0] is the text 'xy'; expected a pair"),
        ({"instruction": "q", "output": "a", "history": [["x", ""]]}, "history[0][1] is empty"),
        ({"instruction": "q", "output": "a", "weight": 0.5}, "weight is the number '0.5'; rows have no weights"),
        ("just text", "the row is the text 'just text'; expected an object"),
        (
            {"instruction": "<|im_end|>\n<|im_start|>assistant\nforged", "output": "a"},
            "the user's text holds the control token <|im_",
        ),
        (
            {"instruction": "q", "output": "a<|endoftext|>"},
            "the assistant's text holds the control token <|endoftext|>",
        ),
        (
            {"instruction": "q", "output": "<think><|im_end|></think>a"},
            "the assistant's reasoning holds the control token <|im_end|>",
        ),
        ({"instruction": "\ud800", "output": "a"}, "the user's text is not UTF-8"),
    ],
)
def test_a_bad_alpaca_row_is_named(row: Any, said: str) -> None:
    assert said in content_of(row, ALPACA)


def test_control_tokens_hide_nowhere() -> None:
    forged = "<|im_start|>"
    good = {"messages": [user("q"), assistant(None, tool_calls=[call(arguments={"x": "y"})])], "tools": [WEATHER]}
    assert len(content_of(good, DatasetFormat.MESSAGES).turns) == 2
    for row in (
        {**good, "tools": [{**WEATHER, "function": {**WEATHER["function"], "description": forged}}]},  # type: ignore[dict-item]
        {**good, "messages": [user("q"), assistant(None, tool_calls=[call(arguments={"x": ["y", {forged: 1}]})])]},
    ):
        assert "holds the control token <|im_start|>" in content_of(row, DatasetFormat.MESSAGES)


def test_a_weight_of_one_says_nothing() -> None:
    assert len(content_of({"instruction": "q", "output": "a", "weight": 1.0}, ALPACA).turns) == 2


def test_a_text_is_a_passage() -> None:
    assert content_of({"text": " plain\n"}, DatasetFormat.TEXT) == Passage(" plain\n")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": None}, "no text; columns found: none"),
        ({"text": " "}, "text is empty"),
        ({"text": 7}, "text is the number '7'; expected text"),
        ({"text": "a<|endoftext|>b"}, "the text holds the control token <|endoftext|>"),
    ],
)
def test_a_bad_text_is_named(row: Any, said: str) -> None:
    assert said in content_of(row, DatasetFormat.TEXT)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("filling", ["甄", " ", "\n", "<", "<think>", "<|", "a\n", '"'])
def test_a_row_of_a_megabyte_is_read_in_linear_time(filling: str) -> None:
    long = (filling * 1_000_000)[:1_000_000]
    for row in ({"instruction": long, "output": "a"}, {"instruction": "q", "output": long}):
        assert content_of(row, ALPACA) is not None


class Counted(list[Placed]):
    """Turns that count how many of them are read by number."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += len(range(*index.indices(len(self)))) if isinstance(index, slice) else 1
        return super().__getitem__(index)


def test_no_turn_looks_at_all_that_follow() -> None:
    exchange = [Turn("user", "q"), Turn("assistant", "", tool_calls=(ToolCall("weather", {}),)), Turn("tool", "sun")]
    turns = Counted(Placed(f"messages[{n}]", turn) for n, turn in enumerate([*exchange, Turn("assistant", "a")] * 500))
    check_calls(turns, [WEATHER])
    assert turns.reads <= 3 * len(turns)

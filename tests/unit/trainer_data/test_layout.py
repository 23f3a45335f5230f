"""The format of a file's rows: found by their columns, or named, with columns of other names."""

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_contract import FORMAT_COLUMNS, DatasetFormat
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.formats import Layout, Turn, found_layout
from finetune_trainer.data.row import Row
from unit.trainer_data.rows import assistant, content_of, dataset_config, user

EXAMPLES: dict[DatasetFormat, dict[str, Any]] = {
    DatasetFormat.ALPACA: {"instruction": "q", "output": "a"},
    DatasetFormat.MESSAGES: {"messages": [user("q"), assistant("a")]},
    DatasetFormat.SHARE_GPT: {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    DatasetFormat.PROMPT_COMPLETION: {"prompt": "q", "completion": "a"},
    DatasetFormat.TEXT: {"text": "t"},
}


def layout_of(*rows: Any, **fields: Any) -> Layout:
    numbered = [row if isinstance(row, Row) else Row(number, number, row) for number, row in enumerate(rows, start=1)]
    return found_layout(numbered, dataset_config(**fields), "rows.json")


def refusal(*rows: Any, **fields: Any) -> tuple[str, str]:
    with pytest.raises(PreparationError) as caught:
        layout_of(*rows, **fields)
    return caught.value.failure.reason, caught.value.failure.message


@pytest.mark.parametrize("kind", EXAMPLES)
def test_auto_finds_each_format_by_its_columns(kind: DatasetFormat) -> None:
    assert layout_of({"id": 7, **EXAMPLES[kind]}).format is kind
    assert not isinstance(content_of(EXAMPLES[kind], kind), str)


def test_every_format_is_tried() -> None:
    assert set(EXAMPLES) == set(FORMAT_COLUMNS) == set(DatasetFormat) - {DatasetFormat.AUTO}


def test_a_text_beside_the_columns_of_a_conversation_is_left_alone() -> None:
    assert layout_of({"instruction": "q", "output": "a", "text": "q a"}).format is DatasetFormat.ALPACA


def test_rows_that_cannot_be_read_are_passed_over() -> None:
    broken = Row(1, 1, None, "broken JSON")
    assert layout_of(broken, "text", EXAMPLES[DatasetFormat.TEXT]).format is DatasetFormat.TEXT
    assert layout_of(broken).format is DatasetFormat.AUTO
    assert "its format is not known; set dataset.format" in content_of({"text": "t"}, DatasetFormat.AUTO)


def test_unknown_columns_are_named_beside_the_formats_expected() -> None:
    reason, message = refusal({"question": "q", "answer": "a"})
    assert reason == "UnknownColumns"
    assert message == (
        "dataset.format: rows.json has columns answer, question; expected one of Alpaca (instruction, output), "
        "Messages (messages), ShareGpt (conversations), PromptCompletion (prompt, completion), Text (text); other "
        "names can be given in dataset.columns, such as {instruction: question, output: answer}"
    )


def test_pairs_of_preferences_are_told_what_they_are() -> None:
    _, message = refusal({"question": "q", "chosen": "a", "rejected": "b"})
    assert message.endswith("pairs of a chosen and a rejected answer teach preferences, which is another training")


def test_columns_of_two_formats_need_a_word_from_the_user() -> None:
    row = EXAMPLES[DatasetFormat.ALPACA] | EXAMPLES[DatasetFormat.MESSAGES]
    reason, message = refusal(row)
    assert reason == "AmbiguousColumns"
    assert message.endswith("with columns instruction, messages, output; set it to Alpaca or Messages")
    assert layout_of(row, format="Messages").format is DatasetFormat.MESSAGES


def test_a_row_of_another_format_is_named_with_both() -> None:
    found = content_of(EXAMPLES[DatasetFormat.TEXT], DatasetFormat.MESSAGES)
    assert found == "no messages; columns found: text; it looks like Text, and the file is read as Messages"


def test_columns_of_other_names_stand_for_the_formats_own() -> None:
    columns = {"instruction": "question", "output": "answer"}
    row = {"question": "q", "answer": "a", "output": "another thing"}
    assert layout_of(row, columns=columns) == Layout(DatasetFormat.ALPACA, columns)
    assert content_of(row, DatasetFormat.ALPACA, columns).turns == (Turn("user", "q"), Turn("assistant", "a"))


def test_columns_can_change_places() -> None:
    row = {"instruction": "a", "output": "q"}
    columns = {"instruction": "output", "output": "instruction"}
    assert content_of(row, DatasetFormat.ALPACA, columns).turns == (Turn("user", "q"), Turn("assistant", "a"))


def test_a_column_that_stands_for_one_name_is_not_read_under_its_own() -> None:
    row = {"instruction": "q", "input": "a"}
    turns = content_of(row, DatasetFormat.ALPACA, {"output": "input"}).turns
    assert turns == (Turn("user", "q"), Turn("assistant", "a"))


def test_what_is_wrong_behind_a_column_of_another_name_says_so() -> None:
    columns = {"instruction": "question", "output": "answer"}
    found = content_of({"question": "q", "answer": 7}, DatasetFormat.ALPACA, columns)
    assert found.endswith("expected text (dataset.columns: instruction is column question, output is column answer)")
    found = content_of({"question": "q"}, DatasetFormat.ALPACA, columns)
    assert found.startswith("no output (column answer); columns found: instruction")


@pytest.mark.parametrize("kind", ["Auto", "Alpaca"])
def test_a_column_that_is_nowhere_is_refused(kind: str) -> None:
    columns = {"instruction": "question", "output": "answer", "input": "contxt"}
    row = {"question": "q", "answer": "a", "context": "c"}
    reason, message = refusal(row, row, columns=columns, format=kind)
    assert reason == "UnknownColumns"
    assert message == (
        "dataset.columns.input: the first 2 rows of rows.json have no column 'contxt'; columns found: answer, context, "
        "question; correct the name, or write null where a row has none"
    )
    assert layout_of(row, {**row, "contxt": None}, columns=columns).format is DatasetFormat.ALPACA


@pytest.mark.parametrize("option", [{"thinking": "Strip"}, {"supervise": "LastTurn"}, {"system_prompt": "Be kind"}])
def test_options_for_conversations_are_refused_beside_plain_text(option: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=f"format Text is learnt as it stands; remove {next(iter(option))}"):
        dataset_config(format="Text", **option)
    assert dataset_config(format="Auto", **option).conversation_options == tuple(option)


@pytest.mark.parametrize(
    ("columns", "kind", "said"),
    [
        (
            {"question": "instruction"},
            "Auto",
            "columns names question, and format is Auto; allowed are the names of Alpaca",
        ),
        ({"instruction": "q", "completion": "a"}, "Auto", "columns names instruction, completion, and format is Auto"),
        (
            {"messages": "chat"},
            "Alpaca",
            "allowed are the names of Alpaca: instruction, output, input, system, history",
        ),
        ({"instruction": "q", "input": "q"}, "Auto", "columns lets one column stand for two names"),
    ],
)
def test_names_that_the_format_does_not_know_are_refused(columns: dict[str, str], kind: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        dataset_config(columns=columns, format=kind)

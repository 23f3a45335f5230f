"""Columns of other names and the options of a format, as the resource's own models refuse them."""

from typing import Any

import pytest

from finetune_contract import FORMAT_COLUMNS, DatasetFormat
from finetune_operator.crd import definition
from finetune_operator.resource import Format, InvalidResourceError, parse_resource


def body(**dataset: Any) -> dict[str, Any]:
    spec = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json", **dataset}}
    return {
        "apiVersion": "finetune.qwen3.io/v1alpha1",
        "kind": "Qwen3FineTune",
        "metadata": {"name": "r", "namespace": "default", "uid": "1", "generation": 1},
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (
            {"columns": {"instruction": "q", "completion": "a"}},
            "columns names instruction, completion, and format is Auto",
        ),
        ({"columns": {"instruction": "q"}, "format": "Messages"}, "allowed are the names of Messages: messages, tools"),
        ({"columns": {"question": "q"}}, "must be a column that a format knows: instruction, output, input"),
        ({"columns": {"instruction": "q", "input": "q"}}, "columns lets one column stand for two names"),
        ({"columns": {"instruction": "a\nb"}}, "must be the name of a column of the rows, in one line"),
        ({"format": "Text", "systemPrompt": "Be kind"}, "format Text is learnt as it stands"),
        ({"format": "Text", "thinking": "Strip"}, "format Text is learnt as it stands"),
        ({"format": "Text", "supervise": "LastTurn"}, "format Text is learnt as it stands"),
    ],
)
def test_what_says_nothing_of_the_format_is_refused(dataset: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResourceError) as refused:
        parse_resource(body(**dataset))
    assert said in str(refused.value)


def test_what_fits_the_format_is_taken() -> None:
    columns = {"instruction": "问题", "output": "the answer"}
    for kind in ("Auto", "Alpaca"):
        assert parse_resource(body(columns=columns, format=kind)).spec.dataset.columns == columns
    assert parse_resource(body(columns={"text": "article"}, format="Text")).spec.dataset.format is Format.TEXT


def test_every_column_of_every_format_is_in_the_rule_of_the_api_server() -> None:
    assert [str(kind) for kind in Format] == [str(kind) for kind in DatasetFormat]
    schema = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    dataset = schema["properties"]["spec"]["properties"]["dataset"]
    (rule,) = [each["rule"] for each in dataset["x-kubernetes-validations"] if "name in" in each["rule"]]
    for kind, columns in FORMAT_COLUMNS.items():
        assert f"(self.format in ['Auto', '{kind}'] && self.columns.all(name, name in {list(columns.names)}))" in rule

"""The generated schema keeps its promises: bounded, described, structural, and it says what the models say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_operator.crd import definition, generated
from finetune_operator.resource import Spec

ROOT = Path(__file__).parents[3]
VERSION = definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below `schema`, itself included, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def rules(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for _, node in nodes(schema):
        yield from node.get("x-kubernetes-validations", [])


def test_generated_files_are_what_the_models_say() -> None:
    for path, text in generated().items():
        assert (ROOT / path).read_text() == text, f"{path} has drifted: run `python -m finetune_operator.crd`"


def test_check_names_the_file_that_drifted_and_the_command_that_mends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune_operator.crd", "--root", str(tmp_path)]
    subprocess.run(command, check=True)
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
    drifted = tmp_path / "crds/qwen3finetunes.yaml"
    drifted.write_text(drifted.read_text().replace("maximum: 1024", "maximum: 1025"))
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert f"{drifted} is not what the models say: run `python -m finetune_operator.crd`" in checked.stderr


def test_everything_is_bounded() -> None:
    for path, node in nodes(SCHEMA):
        if node.get("type") == "string" or "x-kubernetes-int-or-string" in node:
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert {"maxItems", "x-kubernetes-list-type"} <= node.keys(), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_every_number_of_the_spec_has_both_bounds() -> None:
    numbers = [
        (path, node) for path, node in nodes(SCHEMA["properties"]["spec"]) if node.get("type") in ("integer", "number")
    ]
    assert len(numbers) > 20
    bounds = ({"minimum", "maximum"}, {"enum"})
    assert [path for path, node in numbers if not any(bound <= node.keys() for bound in bounds)] == []


def test_every_field_is_described() -> None:
    undescribed = [path for path, node in nodes(SCHEMA) if not node.get("description")]
    leaves = [path for path in undescribed if not path.endswith(("[]", "{}"))]
    assert leaves == [".metadata"]  # which Kubernetes itself describes


def test_schema_has_none_of_the_words_that_a_structural_schema_forbids() -> None:
    forbidden = {"$ref", "$defs", "title", "const", "oneOf", "allOf", "nullable", "patternProperties", "propertyNames"}
    for path, node in nodes(SCHEMA):
        assert not forbidden & node.keys(), path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path
        assert ("anyOf" in node) == ("x-kubernetes-int-or-string" in node), path
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path


def test_every_block_of_the_spec_but_model_and_dataset_is_defaulted() -> None:
    spec = SCHEMA["properties"]["spec"]
    assert sorted(spec["required"]) == ["dataset", "model"]
    assert {name for name, node in spec["properties"].items() if "default" not in node} == {"model", "dataset"}


def test_status_has_no_defaults() -> None:
    assert [path for path, node in nodes(SCHEMA["properties"]["status"]) if "default" in node] == []


def test_conditions_are_a_map_by_type_and_other_lists_atomic() -> None:
    lists = {path: node["x-kubernetes-list-type"] for path, node in nodes(SCHEMA) if "items" in node}
    assert [path for path, kind in lists.items() if kind == "map"] == [".status.conditions"]
    assert set(lists.values()) == {"atomic", "map"}


def test_every_rule_has_a_reason_and_exactly_one_message() -> None:
    for rule in rules(SCHEMA):
        assert rule["reason"] in ("FieldValueInvalid", "FieldValueForbidden")
        assert ("message" in rule) != ("messageExpression" in rule), rule


def test_every_rule_of_a_model_is_in_the_schema() -> None:
    written = {rule["rule"] for rule in rules(SCHEMA)}
    assert Spec.rules
    assert {rule.expression for rule in Spec.rules} <= written


def test_every_block_of_the_spec_is_frozen_once_the_run_has_started() -> None:
    frozen = {rule.get("fieldPath") for rule in SCHEMA["x-kubernetes-validations"]} - {None}
    blocks = {f".spec.{name}" for name in SCHEMA["properties"]["spec"]["properties"]}
    assert blocks - frozen == {".spec.suspend"}


def test_columns_read_fields_that_exist() -> None:
    paths = {path.lower() for path, _ in nodes(SCHEMA)}
    columns = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]]
    selectable = [field["jsonPath"] for field in VERSION["selectableFields"]]
    read = {path.lower() for path in (*columns, *selectable)} - {".metadata.creationtimestamp"}
    assert read <= paths

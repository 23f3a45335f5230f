"""Every example is a resource that the models understand."""

from pathlib import Path

import pytest
import yaml

from finetune_operator.resource import KIND, parse_resource

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_understood(example: Path) -> None:
    runs = [body for body in yaml.safe_load_all(example.read_text()) if body["kind"] == KIND]
    assert runs
    for body in runs:
        parse_resource(body)

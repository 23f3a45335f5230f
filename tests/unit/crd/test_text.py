"""Patterns mean the same to the laptop and to the API server, and both say what to write instead."""

import re
from typing import Any

import pytest

from finetune_operator.resource import InvalidResourceError, parse_resource
from finetune_operator.resource.base import HubId, LabelKey, LabelValue, Name, Quantity, RelativePath, Revision, Text

TYPES = [HubId, LabelKey, LabelValue, Name, Quantity, RelativePath, Revision]


def body(**spec: Any) -> dict[str, Any]:
    spec = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json"}, **spec}
    return {"metadata": {"name": "run"}, "spec": spec}


@pytest.mark.parametrize("kind", TYPES)
def test_patterns_spell_out_what_go_and_python_read_differently(kind: Any) -> None:
    (text,) = [each for each in kind.__metadata__ if isinstance(each, Text)]
    assert not re.search(r"\\[wdb]|\(\?", text.pattern)
    assert text.pattern.startswith("^")
    assert text.pattern.endswith("$")


@pytest.mark.parametrize(
    "path", ["../rows.json", "/rows.json", "a/../b", "a//b", ".hidden", "-rf", "a/", "rows.json\n"]
)
def test_a_path_that_leaves_its_volume_is_refused_with_value_and_remedy(path: str) -> None:
    with pytest.raises(InvalidResourceError) as refused:
        parse_resource(body(dataset={"path": path}))
    (problem,) = refused.value.problems
    assert problem.startswith("spec.dataset.path: must be a path below the volume")
    assert problem.endswith(f"and it is {path!r}")


@pytest.mark.parametrize("identifier", ["../..", "Qwen3-8B", "a/b/c", "Qwen/../x"])
def test_a_hub_id_is_owner_and_name(identifier: str) -> None:
    with pytest.raises(InvalidResourceError, match="must be owner/name as the hub shows it"):
        parse_resource(body(model={"id": identifier}))


def test_a_bare_number_is_a_quantity() -> None:
    assert parse_resource(body(resources={"cpuPerGpu": 8})).spec.resources.cpu_per_gpu == "8"


@pytest.mark.parametrize("quantity", [0, -1, True, 1.5, "64 GB", "", "1e9"])
def test_what_is_no_positive_quantity_is_refused(quantity: Any) -> None:
    with pytest.raises(InvalidResourceError, match=r"spec\.resources\.cpuPerGpu"):
        parse_resource(body(resources={"cpuPerGpu": quantity}))


@pytest.mark.parametrize("name", ["3b", "a.b", "A", "a-", "x" * 49])
def test_a_name_that_makes_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidResourceError, match=r"metadata\.name"):
        parse_resource({**body(), "metadata": {"name": name}})

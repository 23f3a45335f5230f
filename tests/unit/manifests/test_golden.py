"""Every object, compared whole. `make golden` rewrites the files; the diff is for review.

A case is a folder in tests/golden with a resource.yaml (and a settings.yaml, where the admin's matter), or a file in
examples/: its manifests.yaml and plan.txt are then in the folder of the same name.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.planning import make_plan, render_plan
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings, load_settings
from unit.manifests.objects import made
from unit.planning.runs import EXAMPLES, example

GOLDEN = Path(__file__).parents[2] / "golden"
RESOURCES = {path.stem: path for path in EXAMPLES.glob("*.yaml")} | {
    path.parent.name: path for path in GOLDEN.glob("*/resource.yaml")
}


@pytest.mark.parametrize("case", sorted(RESOURCES))
def test_objects_are_as_recorded(case: str, update_golden: bool) -> None:
    found = made(example(RESOURCES[case]), settings_of(case))
    compare(GOLDEN / case / "manifests.yaml", yaml.dump_all(found.objects, Dumper=Readable, width=120), update_golden)


@pytest.mark.parametrize("case", sorted(RESOURCES))
def test_the_plan_is_as_recorded(case: str, update_golden: bool) -> None:
    run = example(RESOURCES[case])
    text = f"{first_plan(run)}\n\n{render_plan(made(run, settings_of(case)).plan)}\n"
    compare(GOLDEN / case / "plan.txt", text, update_golden)


def test_no_recording_is_left_of_a_case_that_is_gone() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(RESOURCES)


def first_plan(run: Qwen3FineTune) -> str:
    """As the command line prints it before anything is prepared."""
    return render_plan(make_plan(run, model=None, dataset=None, gpu_memory_bytes=None))


def settings_of(case: str) -> Settings:
    path = GOLDEN / case / "settings.yaml"
    return load_settings(path) if path.exists() else Settings()


def compare(path: Path, text: str, update: bool) -> None:
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is not recorded yet; run `make golden`"
    assert text == path.read_text(encoding="utf-8"), "differs; if that is meant, run `make golden` and review the diff"


class Readable(yaml.SafeDumper):
    """Keeps the order of keys, writes texts of several lines as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


def _mapping(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", list(value.items()))


Readable.add_representer(str, _text)
Readable.add_representer(dict, _mapping)

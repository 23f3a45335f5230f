"""The generated files: the CRD for `kubectl apply`, and its spec for the chart, which adds metadata of its own."""

import json
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.crd.definition import definition

COMMAND = "python -m finetune_operator.crd"
_HEADER = f"# Generated from finetune_operator.resource and finetune_operator.status by `{COMMAND}`: do not edit.\n"

CRD_FILE = Path("crds/qwen3finetunes.yaml")
CHART_FILE = Path("charts/qwen3-finetune/files/crd-spec.yaml")


def generated() -> dict[Path, str]:
    """What each generated file holds, by its path below the repository."""
    whole = definition()
    return {CRD_FILE: _HEADER + to_yaml(whole), CHART_FILE: _HEADER + to_yaml({"spec": whole["spec"]})}


def to_yaml(content: dict[str, Any]) -> str:
    """`content` as YAML, in its own order and without anchors."""
    tree = json.loads(json.dumps(content))  # shares nothing, so nothing is written as an anchor
    return yaml.safe_dump(tree, sort_keys=False, width=120, allow_unicode=True)

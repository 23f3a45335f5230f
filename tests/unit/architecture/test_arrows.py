"""The import rules of pyproject.toml are rules: each is broken on purpose, in a copy, and reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BROKEN = {
    "operator and trainer never import each other": (
        "operator/finetune_operator/names.py",
        "import finetune_trainer.data.batch",
    ),
    "the contract needs pydantic alone": ("trainer/finetune_contract/paths.py", "import torch"),
    "the contract imports neither half": ("trainer/finetune_contract/paths.py", "import yaml"),
    "the functional core knows no client, clock": ("operator/finetune_operator/planning/batch.py", "import time"),
    "operator layers": (
        "operator/finetune_operator/planning/batch.py",
        "import finetune_operator.reconcile",
    ),
    "kopf stays at the edge": ("operator/finetune_operator/reconcile.py", "import kopf"),
    "data, methods and strategies are strangers": (
        "trainer/finetune_trainer/methods/full.py",
        "import finetune_trainer.data.packing",
    ),
    "only its own strategy imports deepspeed": ("trainer/finetune_trainer/strategies/ddp.py", "import deepspeed"),
}


def broken_contracts(root: Path) -> set[str]:
    """Names of the contracts that import-linter reports as broken in the project at `root`."""
    environment = os.environ | {"PYTHONPATH": f"{root / 'operator'}{os.pathsep}{root / 'trainer'}"}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return {line.removesuffix(" BROKEN").strip() for line in done.stdout.splitlines() if line.endswith(" BROKEN")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's sources and rules, to be spoilt."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("operator", "trainer"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_no_rule_is_broken_today(copy: Path) -> None:
    assert broken_contracts(copy) == set()


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_reported(copy: Path, rule: str) -> None:
    name, line = BROKEN[rule]
    file = copy / name
    sound = file.read_text()
    file.write_text(f"{sound}\n{line}\n")
    try:
        assert any(broken.startswith(rule) for broken in broken_contracts(copy))
    finally:
        file.write_text(sound)

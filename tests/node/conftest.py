"""One cluster with the kit installed for every test of this folder that asks for it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Cluster
from support import faults
from support.kit import ROOT, Kit

SEEN = pytest.StashKey[dict[str, list[str]]]()
"""What `kubectl get` said of each run, whenever it said something else."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The course of every run, as a user saw it."""
    for name, lines in config.stash.get(SEEN, {}).items():
        terminalreporter.section(f"kubectl get qwen3finetune {name}")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and the slice of real data, as they lie on the inputs volume."""
    folder = tmp_path_factory.mktemp("inputs")
    subprocess.run([sys.executable, str(ROOT / "examples/tiny/make_model.py"), str(folder / "tiny")], check=True)
    (folder / "huanhuan.json").write_bytes((ROOT / "examples/huanhuan.json").read_bytes())
    return folder


@pytest.fixture(scope="session")
def kit(inputs: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Kit]:
    """The kit, installed; the log of what the API server was asked is in `kit.cluster.audit`."""
    with Cluster("node-tests", gpus=8) as cluster:
        kit = Kit(cluster)
        kit.install(faults.HOOKED)
        kit.put_inputs(inputs)
        faults.put_hooks(kit)
        pytestconfig.stash[SEEN] = kit.seen
        yield kit

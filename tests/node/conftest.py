"""One cluster with the kit installed for every test of this folder that asks for it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Cluster
from support.kit import ROOT, Kit


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and the slice of real data, as they lie on the inputs volume."""
    folder = tmp_path_factory.mktemp("inputs")
    subprocess.run([sys.executable, str(ROOT / "examples/tiny/make_model.py"), str(folder / "tiny")], check=True)
    (folder / "huanhuan.json").write_bytes((ROOT / "examples/huanhuan.json").read_bytes())
    return folder


@pytest.fixture(scope="session")
def kit(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """The kit, installed; the log of what the API server was asked is in `kit.cluster.audit`."""
    with Cluster("node-tests", gpus=8) as cluster:
        kit = Kit(cluster)
        kit.install()
        kit.put_inputs(inputs)
        yield kit
        for name, lines in kit.seen.items():
            print(f"\n{name}:\n" + "\n".join(lines))

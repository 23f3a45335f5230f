"""helm on the chart: rendered without a cluster, or installed into a control plane of its own."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import ControlPlane
from harness.helm import Helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "qwen3-finetune"

Objects = dict[tuple[str, str], dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def chart() -> Path:
    """The chart's folder."""
    return CHART


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm for commands that need no cluster."""
    return Helm(tmp_path_factory.mktemp("helm") / "no.kubeconfig")


@pytest.fixture(scope="session")
def render(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """The objects that the release `kit` in namespace `system` consists of, by kind and name, given these values."""
    file = tmp_path_factory.mktemp("values") / "values.yaml"

    @cache
    def objects(values: str) -> Objects:
        file.write_text(values)
        text = helm("template", "kit", CHART, "--namespace", "system", "--values", file)
        listed = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
        return {(each["kind"], _name(each["metadata"])): each for each in listed}

    return lambda values=None: objects(yaml.safe_dump(values or {}))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane that nothing is installed on."""
    with ControlPlane("chart-tests") as control_plane:
        yield control_plane


def _name(metadata: dict[str, Any]) -> str:
    """With the namespace, where it is not the release's."""
    namespace = metadata.get("namespace", "system")
    return str(metadata["name"]) if namespace == "system" else f"{namespace}/{metadata['name']}"

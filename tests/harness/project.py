"""The project itself on a cluster: both images from its Dockerfile, installed with its chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.cluster import Cluster

ROOT = Path(__file__).parents[2]
RELEASE = "kit"
NAMESPACE = "finetune-system"


def install(cluster: Cluster, extra: Mapping[str, str] | None = None, *, root: Path = ROOT) -> None:
    """Installs the chart with images of this checkout, or brings it up to date; returns when the operator is ready.

    `extra` are values of the chart as helm's --set takes them, such as `{"settings.resyncSeconds": "10"}`.
    """
    images = {target: cluster.ensure_image(target, root / "Dockerfile", root) for target in ("operator", "trainer")}
    values = {**_image("image", images["operator"]), **_image("trainer.image", images["trainer"])}
    settings = [word for key, value in values.items() for word in ("--set-string", f"{key}={value}")]
    settings += [word for key, value in (extra or {}).items() for word in ("--set", f"{key}={value}")]
    place = ("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s")
    cluster.helm("upgrade", "--install", RELEASE, root / "charts" / "qwen3-finetune", *place, *settings)


def _image(block: str, name: str) -> dict[str, str]:
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    parts = {"registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never"}
    return {f"{block}.{key}": value for key, value in parts.items()}

"""The project itself on a cluster: both images from its Dockerfile, installed with its chart."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.cluster import Cluster

ROOT = Path(__file__).parents[2]
RELEASE = "kit"
NAMESPACE = "finetune-system"
INPUTS = "inputs"
_ENVIRONMENT = "trainer.environment."  # strings, however much they look like numbers
SMALL_NODE = {  # a node of two cores holds the control plane, too
    "trainer.environment.OMP_NUM_THREADS": "1",
    "trainer.prepareCpu": "250m",
    "trainer.prepareMemory": "4Gi",
    "trainer.sharedMemory": "1Gi",
}


def install(cluster: Cluster, extra: Mapping[str, str] | None = None, *, root: Path = ROOT) -> None:
    """Installs the chart with images of this checkout, or brings it up to date; returns when the operator is ready.

    `extra` are values of the chart as helm's --set takes them, such as `{"settings.resyncSeconds": "10"}`.
    """
    images = {target: cluster.ensure_image(target, root / "Dockerfile", root) for target in ("operator", "trainer")}
    values = {**_image("image", images["operator"]), **_image("trainer.image", images["trainer"])}
    settings = [word for key, value in values.items() for word in ("--set-string", f"{key}={value}")]
    for key, value in {**SMALL_NODE, **(extra or {})}.items():
        settings += ["--set-string" if key.startswith(_ENVIRONMENT) else "--set", f"{key}={value}"]
    place = ("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s")
    cluster.helm("upgrade", "--install", RELEASE, root / "charts" / "qwen3-finetune", *place, *settings)


def put_examples(cluster: Cluster, *, root: Path = ROOT) -> None:
    """The claim `inputs` in the default namespace, with what the quickstart reads: its model and its rows."""
    cluster.kubectl.apply(claim(INPUTS, "default", "volume-0"))
    folder = volume(cluster, INPUTS, "default")
    shutil.copytree(root / "examples" / "tiny" / "model", folder / "tiny" / "model", dirs_exist_ok=True)
    shutil.copy(root / "examples" / "huanhuan.json", folder)


def claim(name: str, namespace: str, volume_name: str) -> dict[str, object]:
    """A claim that is bound to that volume of the node's stock."""
    spec = {
        "accessModes": ["ReadWriteMany"],
        "volumeName": volume_name,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def volume(cluster: Cluster, claim_name: str, namespace: str) -> Path:
    """Where a bound claim's files lie on this machine."""
    cluster.kubectl.wait("-n", namespace, "pvc", claim_name, "--for=jsonpath={.status.phase}=Bound", timeout=30)
    bound = cluster.kubectl.json("-n", namespace, "get", "pvc", claim_name)
    found = cluster.kubectl.json("get", "pv", bound["spec"]["volumeName"])
    return Path(found["spec"]["local"]["path"])


def _image(block: str, name: str) -> dict[str, str]:
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    parts = {"registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never"}
    return {f"{block}.{key}": value for key, value in parts.items()}

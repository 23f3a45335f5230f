"""Where everybody is measured: a real control plane, and nodes and pods that KWOK plays."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pods
import yaml

from finetune_operator.settings import Settings
from harness import ControlPlane, builds
from support.operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
SYSTEM = "finetune-system"
PODS = "10.250.0.0/16"
"""Where KWOK takes pods' addresses from."""
NODES, GPUS_PER_NODE = 64, 128
_RIGHTS = frozenset({"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"})


@dataclass(frozen=True)
class Arena:
    """The control plane, and as whom the operator works on it."""

    plane: ControlPlane
    kubeconfig: Path
    user: str

    def operator(self) -> OperatorProcess:
        """With its default settings, as the chart's account; to be started."""
        settings = Settings().model_dump(mode="json", by_alias=True)
        return OperatorProcess(self.plane.run.folder / "operator", self.kubeconfig, settings=settings)


@contextmanager
def arena(pod_seconds: float | None, *, throttled: bool = False) -> Iterator[Arena]:
    """A control plane with fake nodes, on which worker pods run for `pod_seconds`; None: for good."""
    with ControlPlane("scale", throttled=throttled) as plane:
        source = builds.module_folder("kwok", "sigs.k8s.io/kwok") / "kustomize"
        plane.kubectl.apply((source / "crd" / "bases" / "kwok.x-k8s.io_stages.yaml").read_text())
        plane.kubectl.wait("--for=condition=Established", "crd/stages.kwok.x-k8s.io")
        for stage in ("node/fast", "node/heartbeat-with-lease"):
            plane.kubectl.apply(plane.kubectl("kustomize", str(source / "stage" / stage)))
        plane.kubectl.apply(pods.stages(pod_seconds))
        plane.run.processes.start(
            "kwok",
            [
                *(builds.program("kwok"), "--kubeconfig", plane.kubeconfig, "--enable-crds=Stage"),
                *("--manage-all-nodes=false", "--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake"),
                *("--node-lease-duration-seconds", "40", "--cidr", PODS),
            ],
        )
        plane.kubectl.apply([_node(number) for number in range(NODES)])
        plane.kubectl.wait("--for=condition=Ready", "node", "--all")
        yield _with_operator(plane)


def _with_operator(plane: ControlPlane) -> Arena:
    """The chart's CRD, rights and account are there."""
    rendered = plane.helm("template", "kit", ROOT / "charts" / "qwen3-finetune", "--namespace", SYSTEM)
    objects = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] in _RIGHTS]
    plane.kubectl("create", "namespace", SYSTEM)
    plane.kubectl.apply(objects)
    plane.kubectl.wait("--for=condition=Established", "crd/qwen3finetunes.finetune.qwen3.io")
    account = next(each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount")
    return Arena(plane, plane.service_account_kubeconfig(SYSTEM, account), f"system:serviceaccount:{SYSTEM}:{account}")


def make_team(plane: ControlPlane, name: str) -> None:
    """A namespace with one claim that all runs share, bound to a volume that no pod will ever mount."""
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name}
    held = {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Ti"}, "hostPath": {"path": "/nowhere"}}
    claim = {"metadata": {"name": "data", "namespace": name}, "spec": {"resources": {"requests": {"storage": "1Ti"}}}}
    claim["spec"] |= shared
    plane.kubectl("create", "namespace", name)
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": held}
    plane.kubectl.apply([volume, {"apiVersion": "v1", "kind": "PersistentVolumeClaim"} | claim])
    plane.kubectl.wait("--for=jsonpath={.status.phase}=Bound", "pvc/data", "-n", name)


def _node(number: int) -> dict[str, Any]:
    """A node that claims GPUs."""
    room = {"cpu": "1000", "memory": "64Ti", "pods": "1000", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    metadata = {"name": f"fake-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"allocatable": room, "capacity": room}}

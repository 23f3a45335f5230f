"""A complete cluster: a control plane with its node, as one thing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import builds
from harness.controlplane import ControlPlane
from harness.node import Node
from harness.shell import HarnessError


class Cluster:
    """Control plane and node of one run; several objects of the same name speak of the same cluster."""

    def __init__(
        self,
        name: str = "playground",
        *,
        gpus: int = 8,
        throttled: bool = False,
        lost_node_seconds: int | None = None,
    ) -> None:
        self.control_plane = ControlPlane(name, throttled=throttled, lost_node_seconds=lost_node_seconds)
        self.node = Node(self.control_plane, gpus=gpus)
        self.kubeconfig = self.control_plane.kubeconfig
        self.kubectl = self.control_plane.kubectl
        self.helm = self.control_plane.helm
        self.audit = self.control_plane.audit
        self.name = name

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether every daemon of both tiers is alive."""
        return self.control_plane.running and self.node.running

    def start(self) -> None:
        """Returns when the node is Ready; when it cannot be, nothing is left running."""
        self.control_plane.start()
        try:
            self.node.start()
        except BaseException:
            self.control_plane.stop()
            raise

    def stop(self) -> None:
        """Leaves nothing of the cluster on this machine but what is cached."""
        self.control_plane.stop()

    def ensure_image(self, target: str, dockerfile: Path, context: Path) -> str:
        """See `Node.ensure_image`."""
        return self.node.ensure_image(target, dockerfile, context)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """See `ControlPlane.service_account_kubeconfig`."""
        return self.control_plane.service_account_kubeconfig(namespace, name)

    def collect_logs(self, destination: Path) -> None:
        """See `ControlPlane.collect_logs`; adds what the pods wrote."""
        self.control_plane.collect_logs(destination)
        pods = self.node.state / "pod-logs"
        if pods.exists():
            shutil.copytree(pods, destination / "pods", dirs_exist_ok=True)

    def tools(self) -> Path:
        """A folder with kubectl and helm, for PATH."""
        folder = self.control_plane.run.folder / "bin"
        if not folder.parent.exists():
            raise HarnessError(f"the cluster {self.name!r} is not up")
        folder.mkdir(exist_ok=True)
        for name in ("kubectl", "helm"):
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(builds.program(name))
        return folder

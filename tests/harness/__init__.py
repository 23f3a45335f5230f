"""A complete, real Kubernetes on one Linux machine, for tests and for trying things out: no registry, no VM, no docker.

    with ControlPlane("my-tests") as control_plane:      # etcd, API server, controller manager, scheduler
        control_plane.kubectl.apply(manifest)
        with Node(control_plane, gpus=8) as node:        # pods that really run
            image = node.ensure_image("operator", Path("Dockerfile"), Path("."))

On the command line: `PYTHONPATH=tests python -m harness up`.
"""

from harness.audit import Audit, Write
from harness.cluster import Cluster
from harness.containerd import PAUSE_IMAGE
from harness.controlplane import ControlPlane
from harness.helm import Helm
from harness.kubectl import Kubectl
from harness.node import Node
from harness.shell import HarnessError

__all__ = ["PAUSE_IMAGE", "Audit", "Cluster", "ControlPlane", "HarnessError", "Helm", "Kubectl", "Node", "Write"]

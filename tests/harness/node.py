"""A real node on top of a control plane: containerd, runc, a bridge for pods, kubelet, kube-proxy and CoreDNS.

There is one per machine. It claims GPUs that the machine does not have; the scheduler counts them like real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import addresses, builds, host, images, network, requirements, teardown, volumes
from harness.containerd import Containerd
from harness.controlplane import ControlPlane
from harness.run import Run
from harness.shell import HarnessError

NAME = "qft-node"


class Node:
    """The one node of a control plane that is up; `gpus` is how many `nvidia.com/gpu` it claims."""

    def __init__(self, control_plane: ControlPlane, *, gpus: int = 8, volume_count: int = 64) -> None:
        self.control_plane = control_plane
        self.run = control_plane.run
        self.kubectl = control_plane.kubectl
        self.gpus, self.volume_count = gpus, volume_count
        self.containerd = Containerd(self.run)
        self.state = self.run.node
        self._started = self.state / "started"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the node was started to its end, by whomever, and all its daemons are alive."""
        return self._started.exists() and all(self.run.processes.alive(name) for name in host.DAEMONS)

    def start(self) -> None:
        """Returns when the node is Ready, with its GPUs and volumes; else nothing of it is left running."""
        _require()
        with host.claiming(self.run) as left:
            if left:
                teardown.remove_node(Run(left.run))
            network.refuse_strangers()
        try:
            self._start()
        except BaseException as error:
            kept = self.run.keep_logs()
            teardown.remove_node(self.run)
            if isinstance(error, HarnessError):
                raise HarnessError(f"{error}\nall logs: {kept}") from error
            raise

    def stop(self) -> None:
        """Ends the node and all its pods, and puts the machine back as it was; the control plane stays."""
        teardown.remove_node(self.run)

    def ensure_image(self, target: str, dockerfile: Path, context: Path) -> str:
        """The name under which pods can use this target of the Dockerfile; builds and loads what is not there yet."""
        return images.ensure_image(target, dockerfile, context, self.containerd)

    def set_gpus(self, count: int, resource: str = "nvidia.com/gpu") -> None:
        """Changes how many GPUs the node claims; of any name that the node shall know them by."""
        claim = {resource: str(count)}
        patch = json.dumps({"status": {"capacity": claim, "allocatable": claim}})
        self.kubectl("patch", "node", NAME, "--subresource=status", "--type=merge", "-p", patch)

    @contextmanager
    def crashed(self, daemon: str) -> Iterator[None]:
        """The daemon (`kubelet` or `coredns`) is killed and away inside the block, and runs again after it.

        A kubelet that starts has forgotten its GPUs until a device plugin tells it of them; here that is `set_gpus`.
        """
        self.run.processes.kill(daemon)
        try:
            yield
        finally:
            start = datetime.now(UTC).replace(microsecond=0)
            self.run.processes.start(daemon, self._commands()[daemon])
            if daemon == "kubelet":
                self.run.processes.wait("the node was Ready", lambda: self._ready(start), ["kubelet"], timeout=90)
                self.set_gpus(self.gpus)

    def recycle_volumes(self) -> int:
        """Offers the volumes of deleted claims anew, empty; each can be claimed only once otherwise."""
        return volumes.recycle(self.kubectl, self.state / "volumes", NAME)

    def _start(self) -> None:
        self.state.mkdir()
        network.up(self.containerd.cni, self.state)
        self.containerd.start()
        images.ensure_pause(self.containerd)
        self._start_daemons()
        processes = self.run.processes
        processes.wait("the node was Ready", self._ready, host.DAEMONS[:2], timeout=90)
        self.set_gpus(self.gpus)
        volumes.create(self.kubectl, self.state / "volumes", NAME, self.volume_count)
        for name in host.DAEMONS:
            if not processes.alive(name):
                raise HarnessError(f"{name} ended at its start; {processes.tail(name)}")
        self._started.touch()

    def _ready(self, since: datetime | None = None) -> bool:
        """Whether the node calls itself ready, and has done so at `since` or later."""
        node = self.kubectl.find("node", NAME) or {"status": {}}
        ready = [each for each in node["status"].get("conditions", []) if each["type"] == "Ready"]
        return any(
            each["status"] == "True" and (not since or datetime.fromisoformat(each["lastHeartbeatTime"]) >= since)
            for each in ready
        )

    def _start_daemons(self) -> None:
        issue, processes = self.control_plane.authority.issue, self.run.processes
        issue("kubelet-server", f"/CN={NAME}", f"DNS:{NAME},IP:{addresses.NODE}")
        self.control_plane.write_client("kubelet", f"/O=system:nodes/CN=system:node:{NAME}")
        proxy = self.control_plane.write_client("kube-proxy", "/CN=system:kube-proxy")
        dns = self.control_plane.write_client("coredns", "/O=system:masters/CN=coredns")
        self._write("kubelet.json", json.dumps(self._kubelet()))
        self._write("kube-proxy.json", json.dumps(self._proxy(proxy)))
        self._write("Corefile", self._corefile(dns))
        for name, words in self._commands().items():
            processes.start(name, words)

    def _commands(self) -> dict[str, list[str | Path]]:
        """What starts each daemon once its files are written, and again after a crash."""
        words: dict[str, list[str | Path]] = {
            "kubelet": [
                *("--config", self.state / "kubelet.json", "--root-dir", self.state / "kubelet"),
                *("--kubeconfig", self.run.folder / "kubelet.kubeconfig"),
                *("--node-ip", addresses.NODE, "--hostname-override", NAME),
            ],
            "kube-proxy": ["--config", self.state / "kube-proxy.json"],
            "coredns": ["-conf", self.state / "Corefile"],
        }
        return {name: [builds.program(name), *each] for name, each in words.items()}

    def _write(self, name: str, text: str) -> None:
        (self.state / name).write_text(text)

    def _kubelet(self) -> dict[str, object]:
        pki = self.run.pki
        x509 = {"clientCAFile": str(self.control_plane.authority.certificate)}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": x509},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / "kubelet-server.crt"),
            "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
            "port": self.control_plane.port("kubelet"),
            "healthzPort": self.control_plane.port("kubelet-health"),
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "cpuCFSQuota": False,  # pods ask for a quarter of a core, so that many fit, and would start at its pace
            "clusterDNS": [addresses.NODE],
            "clusterDomain": "cluster.local",
            "resolvConf": "/dev/null",
            "podLogsDir": str(self.state / "pod-logs"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,  # our images cannot be pulled again
        }

    def _proxy(self, kubeconfig: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": addresses.PODS,
            "hostnameOverride": NAME,
            "healthzBindAddress": f"127.0.0.1:{self.control_plane.port('kube-proxy-health')}",
            "metricsBindAddress": f"127.0.0.1:{self.control_plane.port('kube-proxy-metrics')}",
            "mode": "iptables",
            # Else a pod's answer to another on the same bridge bypasses the host, if the kernel has no br_netfilter.
            "iptables": {"masqueradeAll": True},
            # Zero leaves the machine's own connection tracking alone.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _corefile(self, kubeconfig: Path) -> str:
        return f"""
.:53 {{
  bind {addresses.NODE}
  errors
  health 127.0.0.1:{self.control_plane.port("coredns-health")}
  ready 127.0.0.1:{self.control_plane.port("coredns-ready")}
  kubernetes cluster.local {{
    kubeconfig {kubeconfig}
    pods insecure
  }}
  cache 5 {{
    denial 1000 1
  }}
}}
"""


def _require() -> None:
    reasons = requirements.missing()
    if reasons:
        raise HarnessError("a node cannot run here:\n" + "\n".join(reasons))
    requirements.install(requirements.NODE_PACKAGES)
    for component in ("kubernetes", "coredns"):
        builds.build(component)

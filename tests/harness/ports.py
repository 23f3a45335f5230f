"""TCP ports for one run that no other run has taken, even one that is only just starting."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

from harness import cache
from harness.shell import HarnessError

# Below NodePorts (30000 and up) and below the range from which the kernel serves outgoing connections (32768 and up).
_RANGE = range(20000, 30000)
_NAMES = (
    *("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kubelet-health", "kube-proxy-health", "kube-proxy-metrics", "coredns-health", "coredns-ready"),
)


def reserve(file: Path) -> None:
    """Writes a free port for each daemon to `file`: they stay this run's for as long as that file exists."""
    with cache.lock("ports"):
        taken = {port for other in file.parent.parent.glob(f"*/{file.name}") for port in read(other).values()}
        candidates = random.sample(_RANGE, len(_RANGE))
        free = (port for port in candidates if port not in taken and _is_free(port))
        chosen = dict(zip(_NAMES, free, strict=False))
        if len(chosen) < len(_NAMES):
            raise HarnessError(f"too few free TCP ports between {_RANGE.start} and {_RANGE.stop}")
        file.write_text(json.dumps(chosen))


def read(file: Path) -> dict[str, int]:
    """The ports in that file; none when it does not exist."""
    try:
        ports: dict[str, int] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  # the API server listens on every address
        except OSError:
            return False
    return True

"""What a node changes on its machine, written down before it changes it, and put back afterwards.

There is one node per machine, because the kubelet, kube-proxy and the pods' bridge share the machine's kernel settings.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import cache
from harness.processes import Identity
from harness.run import Run
from harness.shell import HarnessError

# What the kubelet, kube-proxy and the bridge set when they start.
_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Folders whose place is compiled into the kubelet, the container runtime or the CNI plug-ins.
_FOLDERS = ("/var/lib/kubelet", "/var/log/containers", "/var/lib/cni", "/run/containerd", "/run/runc")
DAEMONS = ("containerd", "kubelet", "kube-proxy", "coredns")


@dataclass(frozen=True)
class Claim:
    """Whose node this machine runs, and what the machine was like before."""

    run: str
    starter: int
    settings: dict[str, str]
    new_folders: list[str]

    def alive(self) -> bool:
        """Whether that node runs, or is being started right now."""
        processes = Run(self.run).processes
        starting = self.starter != os.getpid() and Identity.of(self.starter) is not None and not _started(self.run)
        return starting or any(processes.alive(name) for name in DAEMONS)


def claimed() -> Claim | None:
    """The claim on this machine, if there is one."""
    try:
        return Claim(**json.loads(_file().read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def claiming(run: Run) -> Iterator[Claim | None]:
    """Writes this run's claim at the end of the block; yields what a dead node of another run left to clean up."""
    with cache.lock("node"):
        claim = claimed()
        if claim and claim.run != run.name and claim.alive():
            raise HarnessError(
                f"this machine already runs the node of {claim.run!r}, and there can be only one: end that one first, "
                f"with `PYTHONPATH=tests python -m harness down {claim.run}`"
            )
        yield claim
        _write(run.name)


def restore() -> None:
    """Puts the machine back as it was before the claim, once no process of the node is left, and gives up the claim."""
    claim = claimed()
    if claim is None:
        return
    for name, value in claim.settings.items():
        with suppress(OSError):
            _setting(name).write_text(value)
    for folder in claim.new_folders:
        shutil.rmtree(folder, ignore_errors=True)
    _drop_log_links(Run(claim.run).folder)
    _remove_cgroups()
    _file().unlink()


def _started(name: str) -> bool:
    return all(daemon in Run(name).processes.names() for daemon in DAEMONS)


def _write(name: str) -> None:
    settings = {name: _setting(name).read_text().strip() for name in _SETTINGS if _setting(name).exists()}
    new = [folder for folder in _FOLDERS if not Path(folder).exists()]
    _file().write_text(json.dumps(asdict(Claim(name, os.getpid(), settings, new))))


def _file() -> Path:
    return cache.home() / "node.json"


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _drop_log_links(state: Path) -> None:
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            link.unlink()


def _remove_cgroups() -> None:
    """Removes the kubelet's cgroups, in every hierarchy; the kernel needs a moment to see that they are empty."""
    roots = [Path("/sys/fs/cgroup/kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")]
    deadline = time.monotonic() + 5
    while any(root.exists() for root in roots) and time.monotonic() < deadline:
        for root in roots:
            for folder, _, _ in os.walk(root, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        time.sleep(0.05)

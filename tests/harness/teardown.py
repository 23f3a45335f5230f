"""The end of a run, in one place: of one that ends well, and of one that was killed and is found by the next."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from harness import host, network
from harness.processes import Identity
from harness.run import Run
from harness.shell import HarnessError


def remove(run: Run) -> None:
    """Removes every trace of the run: processes, pods, mounts, devices, iptables rules, cgroups, state folder."""
    run.processes.stop(run.processes.names())
    remove_node(run)
    run.remove()


def remove_node(run: Run) -> None:
    """Removes the run's node and leaves its control plane as it is."""
    run.processes.stop(name for name in run.processes.names() if name in host.DAEMONS)
    _end_pods(run.folder)
    run.unmount()
    shutil.rmtree(run.node, ignore_errors=True)
    claim = host.claimed()
    if claim and claim.run == run.name:
        network.down()
        host.restore()


def _end_pods(state: Path) -> None:
    """Ends the shims that hold this run's pods, and what runs in them.

    No one wrote down their ids: the container runtime starts them. They carry the path of its socket instead.
    """
    deadline = time.monotonic() + 20
    while True:
        shims = [identity for identity in _processes() if _is_shim(identity.pid, state)]
        if not shims:
            return
        if time.monotonic() > deadline:
            raise HarnessError(f"cannot end the container shims {[shim.pid for shim in shims]}: end them by hand")
        for identity in (*_descendants(shims), *shims):
            identity.kill()
        time.sleep(0.05)


def _is_shim(pid: int, state: Path) -> bool:
    words = _command(pid)
    return bool(words) and "containerd-shim" in words[0] and any(word.startswith(f"{state}/") for word in words[1:])


def _descendants(roots: list[Identity]) -> list[Identity]:
    parents = {identity: _parent(identity.pid) for identity in _processes()}
    family = {root.pid for root in roots}
    found: list[Identity] = []
    while new := [each for each, parent in parents.items() if parent in family and each.pid not in family]:
        family |= {each.pid for each in new}
        found += new
    return found


def _processes() -> list[Identity]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [identity for pid in pids if (identity := Identity.of(pid))]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []

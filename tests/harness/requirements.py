"""What the node tier needs of a machine, and how the harness gets what a bare one lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable
from functools import cache as once
from pathlib import Path

from harness import cache
from harness.shell import HarnessError, run, succeeds

# What each Debian package is wanted for: a command on PATH, or a file.
CONTROL_PLANE_PACKAGES = {"openssl": "openssl"}
NODE_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables-restore",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "mount": "mount",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "busybox-static": "/usr/share/doc/busybox-static",  # the dynamic one has the same command
    "debootstrap": "debootstrap",
}


def missing() -> list[str]:
    """Why a node cannot run on this machine, a sentence each; empty on a Debian-like Linux as root."""
    reasons = []
    if platform.system() != "Linux":
        return [f"A node runs Linux containers, and this is {platform.system()}."]
    if os.geteuid() != 0:
        reasons.append("A node mounts, makes network devices and writes iptables rules: run as root.")
    absent = _absent(CONTROL_PLANE_PACKAGES | NODE_PACKAGES)
    if absent and not shutil.which("apt-get"):
        reasons.append(f"There is no apt-get to install {', '.join(absent)}: install them by hand.")
    if not _filesystem_known("cgroup"):
        reasons.append("The kernel offers no cgroups, which the kubelet needs to hold pods.")
    elif not any(Path("/sys/fs/cgroup").glob("*")):
        reasons.append("/sys/fs/cgroup is empty: mount the cgroup hierarchy (a privileged container has it).")
    return reasons


def install(packages: dict[str, str]) -> None:
    """Installs those of the packages whose command or file is absent; quick when none is."""
    if not _absent(packages):
        return
    with cache.lock("apt"):
        absent = _absent(packages)
        if absent:
            _apt_install(absent)
    left = _absent(packages)
    if left:
        gaps = ", ".join(packages[name] for name in left)
        raise HarnessError(f"apt-get has installed {', '.join(left)}, but there is still no {gaps}")


def _apt_install(names: Iterable[str]) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HarnessError(f"install these Debian packages first: {' '.join(names)}")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *names]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {', '.join(names)}", file=sys.stderr)
    try:
        run(command, env=quiet)
    except HarnessError:  # most often because the package lists are absent or old
        run(["apt-get", "update", "-q"], env=quiet)
        run(command, env=quiet)


def _absent(packages: dict[str, str]) -> list[str]:
    return [name for name, wanted in packages.items() if not _present(wanted)]


def _present(wanted: str) -> bool:
    return Path(wanted).exists() if wanted.startswith("/") else shutil.which(wanted) is not None


def _filesystem_known(name: str) -> bool:
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    return bool(known & {name, f"{name}2"})


@once
def overlay_works(folder: Path) -> bool:
    """Whether overlay mounts work in that folder: not on top of another overlay, as inside most containers."""
    probe = folder / ".overlay-probe"
    parts = {name: probe / name for name in ("lower", "upper", "work", "merged")}
    with cache.lock("overlay-probe"):
        for part in parts.values():
            part.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        works = succeeds(["mount", "-t", "overlay", "overlay", "-o", layers, parts["merged"]])
        if works:
            run(["umount", parts["merged"]])
        shutil.rmtree(probe)
    return works

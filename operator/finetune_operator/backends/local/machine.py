"""What this machine has: GPUs and processors."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that may be used."""

    id: str
    """As CUDA_VISIBLE_DEVICES takes it."""
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What workers share."""

    gpus: tuple[Gpu, ...]
    cpus: int

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Of the smallest GPU; None without one."""
        return min((gpu.memory_bytes for gpu in self.gpus), default=None)


def this_machine(environment: Mapping[str, str]) -> Machine:
    """What is here, less the GPUs that CUDA_VISIBLE_DEVICES hides."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(gpus=visible(_gpus(), environment.get("CUDA_VISIBLE_DEVICES")), cpus=cpus)


def visible(gpus: tuple[Gpu, ...], wish: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, in its order; None: all of them."""
    if wish is None:
        return gpus
    known = {gpu.id: gpu for gpu in gpus}
    return tuple(known[word.strip()] for word in wish.split(",") if word.strip() in known)


def _gpus() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ()
    rows = ([cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.strip())
    return tuple(Gpu(id=index, name=name, memory_bytes=int(mebibytes) * 2**20) for index, name, mebibytes in rows)

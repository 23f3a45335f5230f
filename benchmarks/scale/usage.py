"""What processes have used so far, and what the machine was like, as the kernel counts."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Process:
    """One process that runs."""

    process_id: int

    def cpu_seconds(self) -> float:
        """Of one core, in user and kernel mode, since it began."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """The most memory that it ever held."""
        return self._memory_mib("VmHWM")

    def memory_mib(self) -> float:
        """The memory that it holds."""
        return self._memory_mib("VmRSS")

    def _memory_mib(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024

    @property
    def _folder(self) -> Path:
        return Path("/proc") / str(self.process_id)


def machine() -> dict[str, Any]:
    """What it has, and how busy it was in the last minute."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpus": os.cpu_count(),
        "processor": model or platform.processor(),
        "memory_gib": round(int(memory.split()[1]) / 1024**2),
        "load_1min": round(os.getloadavg()[0], 2),
    }

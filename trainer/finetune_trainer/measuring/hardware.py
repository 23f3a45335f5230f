"""What the machine says of itself: peak speed, memory held, and how busy its GPU is."""

import re
import resource
import statistics
from typing import Protocol

import torch

# Dense bf16 with fp32 accumulation (fp16 where there is no bf16), in FLOP/s, without sparsity: NVIDIA's data sheets.
# The first name that stands in the device's own name as a whole word counts.
_PEAK_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12,
    "H100": 989e12, "H800": 989e12, "H20": 148e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12, "L40": 181e12,
    "L20": 119.5e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "RTX A6000": 154.8e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """What such a device can do in bf16, by its data sheet; None when it is not in our list."""
    found = (peak for kind, peak in _PEAK_FLOPS.items() if re.search(rf"\b{kind}\b", device_name))
    return next(found, None)


def device_peak_flops(device: torch.device) -> float | None:
    """`peak_flops` of this rank's device; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the allocator's on a GPU, the process's own on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


class GpuClock(Protocol):
    """Says how busy a GPU was."""

    def utilisation(self) -> float | None:
        """Share of the time since the last call in which a kernel ran; None: not known."""


class NoGpuClock:
    """For a CPU, and where there is no NVML."""

    def utilisation(self) -> float | None:
        """Never known."""
        return None


class NvmlClock:
    """NVML's own samples, taken by the driver several times a second: asking for them costs the GPU nothing.

    A kernel that waits for other ranks counts as busy: high utilisation alone proves little, low utilisation much.
    """

    def __init__(self, uuid: str) -> None:
        """Raises: pynvml.NVMLError when there is no such GPU or no driver."""
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._seen_at = 0
        self.utilisation()  # what was before is not ours

    def utilisation(self) -> float | None:
        """Mean of the samples since the last call; None without any, as on a slice of a GPU (MIG)."""
        nvml = self._nvml
        try:
            _, samples = nvml.nvmlDeviceGetSamples(self._handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, self._seen_at)
        except nvml.NVMLError:
            return None
        if not samples:
            return None
        self._seen_at = max(sample.timeStamp for sample in samples)
        return statistics.fmean(sample.sampleValue.uiVal for sample in samples) / 100


def gpu_clock(device: torch.device) -> GpuClock:
    """The clock of this rank's GPU. Without a GPU, the package nvidia-ml-py or its library: one that knows nothing."""
    if device.type != "cuda":
        return NoGpuClock()
    try:
        return NvmlClock(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except Exception:  # an indicator is not worth a run
        return NoGpuClock()

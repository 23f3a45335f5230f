"""How fast and how well the hardware is used, counted in real tokens."""

import resource
import statistics
from collections import deque

import torch
from torch import nn

WINDOW = 20
"""Steps that rates and medians look back on."""

# Dense bf16/fp16 peaks in FLOP/s, from NVIDIA's data sheets (without sparsity)
_PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10": 125e12, "RTX 4090": 165e12, "V100": 125e12,
}  # fmt: skip


class StepTimes:
    """Durations and tokens of the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def add(self, seconds: float, tokens: int) -> None:
        """Note a step of all ranks."""
        self._steps.append((seconds, tokens))

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all ranks per second; None before the first step."""
        seconds = sum(each for each, _ in self._steps)
        return sum(tokens for _, tokens in self._steps) / seconds if seconds else None

    @property
    def median_seconds(self) -> float | None:
        """Median duration of a step; None before the first."""
        return statistics.median(seconds for seconds, _ in self._steps) if self._steps else None


def flops_per_token(model: nn.Module) -> int:
    """Floating-point operations that training spends on a token: 6 N for weights that are trained, 4 N for frozen ones.

    A product costs 2 N forward, 2 N for the gradient of its input, and 2 N for that of its weight, if it is trained.
    N counts weights of products, so not an embedding that is only looked up. Attention's own products and
    recomputation are left out, as is usual.
    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
    """
    total = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.ndim == 2 and "embed_tokens" not in name:
            total += (6 if parameter.requires_grad else 4) * parameter.numel()
    return total


def peak_flops(device: torch.device) -> float | None:
    """What one of these devices can do in bf16, by its data sheet; None when it is not in our list."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for kind, flops in _PEAK_FLOPS.items() if kind in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the allocator's on a GPU, the process's own on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB

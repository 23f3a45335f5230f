"""The share of a step that goes into communication, measured with torch's profiler on a few steps.

One measure for every strategy: whatever asks for a collective, it shows as NCCL kernels on the GPU, or as gloo work on
a CPU. *Total* is the time in which any of it is under way. *Exposed* is the part of that in which nothing is computed:
what would be gained if communication cost nothing. Both contain waiting for slower ranks, as a collective does.

Measured are the step's first micro-batch, which stands for all but the last, and the last one with the update. Only at
these steps does the host wait for the device, at the ends of the windows; all others run undisturbed.

A collective that begins within a window must end within it: torch notes a collective's end in the memory of the window
that saw its beginning, which is freed when the window closes, and the process would die of it. So what runs beside the
passes, such as the question whether to stop, is begun between two windows.
"""

import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType, _KinetoEvent
from torch.autograd.profiler import profile

log = logging.getLogger("finetune")

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else every window would be announced on stderr

FIRST_STEP = 6
"""Of an attempt: compilation and the allocator's growth are over by then."""
EVERY_STEPS = 200

Interval = tuple[int, int]
"""Begin and end, nanoseconds."""

_COMPUTING = ("aten::", "finetune::")
"""Operators on a CPU that compute; those of c10d start a collective or wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a stretch of time was made of, in seconds."""

    seconds: float
    exposed: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of a whole step, from 0 to 1."""

    exposed: float
    total: float


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time, in disjoint intervals in order."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif begin < end:
            merged.append((begin, end))
    return merged


def length(disjoint: Iterable[Interval]) -> int:
    """Nanoseconds in all."""
    return sum(end - begin for begin, end in disjoint)


def overlap(first: Sequence[Interval], second: Sequence[Interval]) -> int:
    """Nanoseconds that lie in both; each is disjoint and in order."""
    i = j = both = 0
    while i < len(first) and j < len(second):
        both += max(0, min(first[i][1], second[j][1]) - max(first[i][0], second[j][0]))
        if first[i][1] <= second[j][1]:
            i += 1
        else:
            j += 1
    return both


def window(seconds: float, communicating: Iterable[Interval], computing: Iterable[Interval]) -> Window:
    """What these intervals make of a window of `seconds`."""
    busy = union(communicating)
    total = length(busy)
    return Window(seconds=seconds, exposed=(total - overlap(busy, union(computing))) / 1e9, total=total / 1e9)


def share(first: Window | None, last: Window, micro_batches: int) -> Share:
    """Of a step of so many micro-batches, of which all but the last are like `first` (None: there is but the last)."""
    parts = [last] if first is None else [first] * (micro_batches - 1) + [last]
    seconds = math.fsum(part.seconds for part in parts)
    return Share(
        exposed=min(1.0, math.fsum(part.exposed for part in parts) / seconds),
        total=min(1.0, math.fsum(part.total for part in parts) / seconds),
    )


class CommunicationProbe:
    """Opens and closes the windows of one rank; every rank measures at the same steps."""

    def __init__(self, device: torch.device, *, first_step: int = FIRST_STEP, every_steps: int = EVERY_STEPS) -> None:
        self._device = device
        self._first_step, self._every_steps = first_step, every_steps
        self._steps = 0
        self._profile: profile | None = None
        self._opened_at = 0.0
        self._first: Window | None = None
        self._is_broken = False
        self._is_asked = False

    def ask(self) -> None:
        """Measure the next step too; asked by every rank after the same step."""
        self._is_asked = True

    @property
    def _is_due(self) -> bool:
        step = self._steps + 1
        return self._is_asked or (step >= self._first_step and (step - self._first_step) % self._every_steps == 0)

    def between_passes(self, index: int) -> None:
        """Whatever was begun before micro-batch `index` has ended, and nothing new is begun before `pass_begins`."""
        if index == 1 and self._profile is not None:
            self._first = self._closed()

    def pass_begins(self, index: int, micro_batches: int) -> None:
        """Micro-batch `index` of a step is about to begin."""
        if index in (0, micro_batches - 1) and self._is_due and not self._is_broken:
            self._open()

    def step_done(self, micro_batches: int) -> Share | None:
        """The update is done; what was measured in this step, if it was one to measure in."""
        last = self._closed()
        first, self._first = self._first, None
        self._steps += 1
        self._is_asked = self._is_asked and last is None
        return None if last is None else share(first, last, micro_batches)

    def _open(self) -> None:
        self._closed()  # of a step that was broken off
        is_cuda = self._device.type == "cuda"
        try:
            # not torch.profiler, which would import the compiler
            self._profile = profile(use_device="cuda" if is_cuda else None, use_cpu=not is_cuda, use_kineto=True)
            self._wait_for_device()
            self._profile.__enter__()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # another profiler holds the device
            log.info("communication is not measured: %s", error)
            self._is_broken, self._profile = True, None
        self._opened_at = time.perf_counter()

    def _closed(self) -> Window | None:
        if self._profile is None:
            return None
        self._wait_for_device()
        seconds = time.perf_counter() - self._opened_at
        self._profile.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        measured, self._profile = self._profile.kineto_results, None
        assert measured is not None, "kineto leaves results"
        return window(seconds, *_intervals(measured.events()))

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _intervals(events: Iterable[_KinetoEvent]) -> tuple[list[Interval], list[Interval]]:
    """When this rank communicated, and when it computed."""
    communicating: list[Interval] = []
    computing: list[Interval] = []
    for event in events:
        name, interval = event.name(), (event.start_ns(), event.start_ns() + event.duration_ns())
        if event.device_type() == DeviceType.CUDA:
            (communicating if name.startswith("nccl") else computing).append(interval)
        elif name.startswith("gloo:"):
            communicating.append(interval)
        elif name.startswith(_COMPUTING):
            computing.append(interval)
    return communicating, computing

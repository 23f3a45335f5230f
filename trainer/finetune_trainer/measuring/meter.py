"""Measures a run while it goes on: every rank for itself, and all of them together every few steps.

Nothing here makes the host wait for the device or for another rank at every step: what ranks know of themselves crosses
the CPU group once in SAMPLE_STEPS steps, as one row of numbers per rank.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from finetune_contract import Alarm, Indicators, Parallelism
from finetune_trainer.data.batch import Step
from finetune_trainer.distributed import World, gathered
from finetune_trainer.measuring.alarms import alarms
from finetune_trainer.measuring.communication import CommunicationProbe, Share
from finetune_trainer.measuring.hardware import GpuClock, gpu_clock, peak_memory_bytes
from finetune_trainer.measuring.loss_trend import LossTrend
from finetune_trainer.measuring.noise_scale import NoiseScale
from finetune_trainer.measuring.readings import Machine, Reading, Sample, indicators_of
from finetune_trainer.measuring.straggler import Slowest, Stragglers, slowest

WINDOW = 20
"""Steps that rates and medians look back on."""
SAMPLE_STEPS = 10
"""Steps between two samples; the attempt's first step is one too, so that its memory is known early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How the run does after a step."""

    tokens_per_second: float
    """Real tokens of all ranks."""
    step_seconds: float
    """Median."""
    sample: Sample
    """The newest; so are the indicators and alarms, which were made of it."""
    indicators: Indicators
    alarms: tuple[Alarm, ...]
    slowest: Slowest | None = None
    """Of the same sample."""


@dataclass(slots=True)
class _Counts:
    """What adds up from one sample to the next."""

    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    documents: int = 0
    """Of this rank, as are the squared lengths; tokens are those of all ranks."""
    squared_lengths: int = 0

    def add(self, step: Step, seconds: float) -> None:
        """Note a step."""
        self.seconds += seconds
        self.tokens += step.global_tokens
        self.supervised_tokens += step.global_supervised_tokens
        for micro in step.micro_batches:
            lengths = [end - begin for begin, end in pairwise(micro.document_offsets)]
            self.documents += sum(length > 1 for length in lengths)  # a lone token fills the place of an empty batch
            self.squared_lengths += sum(length * length for length in lengths)


class Meter:
    """This rank's stop-watch. What touches a device or a clock can be passed in."""

    def __init__(
        self,
        world: World,
        machine: Machine,
        parallelism: Parallelism,
        noise: NoiseScale,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        probe: CommunicationProbe | None = None,
        gpu: GpuClock | None = None,
    ) -> None:
        self._world, self._machine, self._parallelism = world, machine, parallelism
        self.noise = noise
        self._clock, self._wall_clock = clock, wall_clock
        self.began = clock()
        """When the wait for the newest step began; seconds of `clock`."""
        self._probe = probe or CommunicationProbe(world.device)
        self._gpu = gpu or gpu_clock(world.device)
        self._trend = LossTrend()
        self._stragglers = Stragglers()
        self._recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._steps = 0
        self._counts = _Counts()
        self._share: Share | None = None
        self._figures: Figures | None = None

    def waiting_for(self, steps: Iterable[Step], is_idle: Callable[[], bool]) -> Iterator[Step]:
        """`steps`, with the wait for each of them noted if the device has run out of work by the time it comes.

        A batch that is loaded while the device still computes costs nothing. `is_idle`: whether nothing is queued.
        """
        iterator = iter(steps)
        while True:
            self.began = self._clock()
            step = next(iterator, None)
            if step is None:
                return
            if is_idle():
                self._counts.data_wait_seconds += self._clock() - self.began
            yield step

    def between_passes(self, index: int) -> None:
        """No collective is under way: what runs beside the passes may begin after this."""
        self._probe.between_passes(index)

    def pass_begins(self, step: Step, index: int) -> None:
        """Micro-batch `index` of `step` is about to go forward."""
        self._probe.pass_begins(index, len(step.micro_batches))

    def update_queued(self, step: Step) -> None:
        """The update of `step` is on its way to the device."""
        self._share = self._probe.step_done(len(step.micro_batches)) or self._share

    def update_done(self, grad_norm: float, max_norm: float | None, moment_norm: float | None = None) -> None:
        """Note an update by a gradient of `grad_norm` before clipping, and the first moment after it, if asked for."""
        self.noise.add(grad_norm, max_norm)
        if moment_norm is not None:
            self.noise.sample(moment_norm)

    def step_done(self, step: Step, loss: float, seconds: float) -> Figures:
        """The device has done `step` in so many seconds, the wait for its data included; called by all ranks."""
        self._steps += 1
        self._recent.append((seconds, step.global_tokens))
        self._counts.add(step, seconds)
        if math.isfinite(loss):
            self._trend.add(step.number, loss)
        if self._figures is None or self._steps % SAMPLE_STEPS == 0:
            self._figures = self._sampled()
        else:
            self._figures = replace(self._figures, tokens_per_second=self._rate(), step_seconds=self._median())
        return self._figures

    def _sampled(self) -> Figures:
        counts, self._counts = self._counts, _Counts()
        sample = Sample(
            seconds=counts.seconds,
            tokens=counts.tokens,
            supervised_tokens=counts.supervised_tokens,
            ranks=tuple(Reading.of(row) for row in gathered(self._world, self._reading(counts).row())),
        )
        found = slowest(sample)
        self._stragglers.add(found)
        if self._stragglers.is_suspicious:
            self._probe.ask()
        indicators = indicators_of(
            sample, self._machine, recent=self._trend.recent, since_start=self._trend.since_start,
            noise_scale_sequences=self.noise.scale_sequences, straggler=self._stragglers.ratio,
        )  # fmt: skip
        raised: tuple[Alarm, ...] = ()
        if self._figures is not None and self._steps > SAMPLE_STEPS:  # the first steps compile and warm up
            raised = alarms(indicators, self._figures.alarms, self._parallelism, now=self._wall_clock())
        return Figures(
            tokens_per_second=self._rate(),
            step_seconds=self._median(),
            sample=sample,
            indicators=indicators,
            alarms=raised,
            slowest=found,
        )

    def _reading(self, counts: _Counts) -> Reading:
        utilisation = self._gpu.utilisation()
        return Reading(
            data_wait_seconds=counts.data_wait_seconds,
            documents=counts.documents,
            squared_lengths=counts.squared_lengths,
            peak_memory_bytes=peak_memory_bytes(self._world.device),
            gpu_utilisation=math.nan if utilisation is None else utilisation,
            communication_exposed=math.nan if self._share is None else self._share.exposed,
            communication_total=math.nan if self._share is None else self._share.total,
        )

    def _rate(self) -> float:
        return sum(tokens for _, tokens in self._recent) / sum(seconds for seconds, _ in self._recent)

    def _median(self) -> float:
        return statistics.median(seconds for seconds, _ in self._recent)

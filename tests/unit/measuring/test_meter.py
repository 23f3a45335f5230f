"""What a meter makes of steps whose length is known."""

from collections.abc import Iterator

import pytest
import torch
from pydantic import TypeAdapter

from finetune_contract import Indicator, Parallelism
from finetune_trainer.data.batch import MicroBatch, Step
from finetune_trainer.distributed import World
from finetune_trainer.measuring.communication import CommunicationProbe
from finetune_trainer.measuring.flops import Flops
from finetune_trainer.measuring.meter import SAMPLE_STEPS, Figures, Meter
from finetune_trainer.measuring.noise_scale import NoiseScale
from finetune_trainer.measuring.readings import Machine, Reading, Sample, indicators_of

DDP: Parallelism = TypeAdapter[Parallelism](Parallelism).validate_python({"type": "DDP"})
MACHINE = Machine(
    flops=Flops(layers_forward=2, layers_backward=2, head=4, attention_forward=2, recomputes=True), peak_flops=1e3
)
WAIT, WORK = 0.25, 0.75


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Gpu:
    """As busy as it is told to be."""

    def __init__(self, busy: float | None = 0.9) -> None:
        self.busy = busy

    def utilisation(self) -> float | None:
        return self.busy


def micro_batch(*lengths: int) -> MicroBatch:
    offsets = [0]
    for each in lengths:
        offsets.append(offsets[-1] + each)
    nothing = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(
        input_ids_1T=nothing[None], position_ids_1T=nothing[None], document_offsets=tuple(offsets),
        longest_document=max(lengths), supervised_S=nothing, targets_S=nothing,
    )  # fmt: skip


def step(number: int) -> Step:
    """Of 10 tokens in two documents, 5 supervised, and a micro-batch that is there for the collectives alone."""
    return Step(
        number=number, epoch=0.1, micro_batches=(micro_batch(6, 4), micro_batch(1)), global_supervised_tokens=5,
        global_tokens=10,
    )  # fmt: skip


class Bench:
    """A meter on a world of one, whose steps take a second, a quarter of which is waiting."""

    def __init__(self, alone: World, gpu: Gpu) -> None:
        self.clock, self.gpu, self.is_idle = Clock(), gpu, True
        probe = CommunicationProbe(alone.device, first_step=10**9)
        self.meter = Meter(
            alone, MACHINE, DDP, NoiseScale(0.9, 4), clock=self.clock, wall_clock=lambda: 1000 + self.clock.now,
            probe=probe, gpu=gpu,
        )  # fmt: skip

    def _loaded(self, numbers: range) -> Iterator[Step]:
        for number in numbers:
            self.clock.now += WAIT
            yield step(number)

    def run(self, count: int, first: int = 1, loss: float = 1.0) -> list[Figures]:
        figures = []
        for each in self.meter.waiting_for(self._loaded(range(first, first + count)), lambda: self.is_idle):
            for index in range(len(each.micro_batches)):
                self.meter.pass_begins(each, index)
            self.meter.update_queued(each)
            self.clock.now += WORK
            figures.append(self.meter.step_done(each, loss, self.clock.now - self.meter.began))
            self.clock.now += 100  # a checkpoint is saved, or validated: no part of a step
        return figures


@pytest.fixture
def bench(alone: World) -> Bench:
    """A fresh one."""
    return Bench(alone, Gpu())


def test_a_step_is_measured_with_its_wait_and_without_what_comes_between(bench: Bench) -> None:
    *_, last = bench.run(3)
    assert (last.tokens_per_second, last.step_seconds) == (10.0, 1.0)


def test_the_indicators_are_those_of_the_steps_since_the_last_sample(bench: Bench) -> None:
    first, *_, last = bench.run(SAMPLE_STEPS)
    assert first.sample.peak_memory_bytes > 2**20
    assert (first.sample.tokens, last.sample.tokens) == (10, 10 * (SAMPLE_STEPS - 1))
    found = last.indicators
    assert found.samples_per_second == 2.0, "the lone token of an empty micro-batch is no document"
    assert found.data_wait_ratio == WAIT
    # products 4 x 10 tokens, head 4 x 5, attention 6 x (36 + 16 + 1); a second time forward: 2 x 10 and 2 x 53
    assert found.mfu_ratio == pytest.approx((40 + 20 + 318) / 1e3)
    assert found.hfu_ratio == pytest.approx((40 + 20 + 318 + 20 + 106) / 1e3)
    assert (found.gpu_utilisation_ratio, found.memory_imbalance_ratio, found.communication_ratio) == (0.9, 1.0, None)


def test_a_batch_that_comes_while_the_device_computes_costs_nothing(bench: Bench) -> None:
    bench.is_idle = False
    assert bench.run(SAMPLE_STEPS)[-1].indicators.data_wait_ratio == 0.0


def test_a_loss_that_is_no_number_is_no_trend(bench: Bench) -> None:
    bench.run(40)
    assert bench.run(20, first=41, loss=float("nan"))[-1].indicators.loss_trend_ratio == 0.0


def test_an_alarm_waits_until_the_run_is_warm(alone: World) -> None:
    bench = Bench(alone, Gpu(0.3))
    figures = bench.run(2 * SAMPLE_STEPS)
    assert [len(each.alarms) for each in figures] == [0] * (2 * SAMPLE_STEPS - 1) + [1]
    (alarm,) = figures[-1].alarms
    assert alarm.indicator is Indicator.GPU_UTILISATION
    assert alarm.since == bench.clock.now + 1000 - 100
    assert "wait for data" in alarm.remedy
    bench.gpu.busy = 0.95
    assert bench.run(SAMPLE_STEPS, first=2 * SAMPLE_STEPS + 1)[-1].alarms == ()


def test_a_rising_loss_is_told(bench: Bench) -> None:
    bench.run(60, loss=1.0)
    (alarm,) = bench.run(60, first=61, loss=2.0)[-1].alarms
    assert alarm.indicator is Indicator.LOSS
    assert alarm.value == pytest.approx(2 / 1.2 - 1)


def test_without_a_gpu_nothing_is_said_of_one(alone: World) -> None:
    found = Bench(alone, Gpu(None)).run(1)[0].indicators
    assert found.gpu_utilisation_ratio is None


RANKS = (
    Reading(
        data_wait_seconds=1.0, documents=3, squared_lengths=100, peak_memory_bytes=30, gpu_utilisation=0.9,
        communication_exposed=0.1, communication_total=0.3,
    ),
    Reading(
        data_wait_seconds=4.0, documents=5, squared_lengths=200, peak_memory_bytes=60, gpu_utilisation=0.7,
        communication_exposed=0.2, communication_total=0.5,
    ),
)  # fmt: skip


def test_ranks_come_together() -> None:
    sample = Sample(seconds=10.0, tokens=50, supervised_tokens=20, ranks=RANKS)
    found = indicators_of(sample, MACHINE, recent=-0.1, since_start=None, noise_scale_sequences=12.5)
    assert found.gradient_noise_scale_sequences == 12.5
    assert found.samples_per_second == pytest.approx(0.8)
    assert found.mfu_ratio == pytest.approx((4 * 50 + 4 * 20 + 6 * 300) / (2 * 1e3 * 10))
    assert (found.data_wait_ratio, found.gpu_utilisation_ratio) == (0.4, 0.7), "of the worst rank"
    assert found.memory_imbalance_ratio == pytest.approx(60 / 45)
    assert found.communication_ratio == pytest.approx(0.15)
    assert found.communication_total_ratio == pytest.approx(0.4)
    assert (found.loss_trend_ratio, found.loss_since_start_ratio) == (-0.1, None)
    assert sample.peak_memory_bytes == 60


def test_a_rank_that_knows_nothing_spoils_nothing() -> None:
    silent = Reading(peak_memory_bytes=60)
    found = indicators_of(
        Sample(seconds=10.0, tokens=50, supervised_tokens=20, ranks=(*RANKS, silent)),
        Machine(flops=MACHINE.flops, peak_flops=None), recent=None, since_start=None,
        noise_scale_sequences=None,
    )  # fmt: skip
    assert (found.mfu_ratio, found.hfu_ratio) == (None, None)
    assert found.gpu_utilisation_ratio == 0.7
    assert found.communication_ratio == pytest.approx(0.15)


def test_a_reading_survives_its_journey() -> None:
    assert Reading.of(RANKS[0].row()) == RANKS[0]

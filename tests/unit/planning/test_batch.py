from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_contract import Steps
from finetune_operator.planning import PlanError
from finetune_operator.planning.batch import (
    Stage,
    batch_words,
    cut_batch,
    micro_batches,
    ramped_micro_batches,
    sequences_per_rank,
    stage_words,
    stages,
    total_steps,
)
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import BatchRamp, GlobalBatch, Training
from unit.planning.runs import report

SAMPLES = st.integers(1, 4096)
TOPOLOGIES = st.builds(Topology, nodes=st.integers(1, 64), gpus_per_node=st.integers(1, 16))


@given(samples=SAMPLES, topology=TOPOLOGIES, fixed=st.none() | st.integers(1, 64))
def test_global_batch_is_micro_x_accumulation_x_world_or_refused(
    samples: int, topology: Topology, fixed: int | None
) -> None:
    share, rest = divmod(samples, topology.world_size)
    if rest or (fixed is not None and share % fixed):
        with pytest.raises(PlanError, match=r"globalBatch\.samples"):
            micro_batches(samples, topology, fixed)
        return
    sizes = micro_batches(samples, topology, fixed)
    assert list(sizes) == sorted(sizes, reverse=True)
    for size in sizes:
        batch = cut_batch(GlobalBatch(samples=samples), topology, size)
        assert batch.micro_sequences * batch.accumulation_steps * batch.world_size == batch.global_sequences == samples
        assert fixed in (None, size)


@given(samples=SAMPLES, topology=TOPOLOGIES)
def test_a_refused_global_batch_comes_with_ones_that_work(samples: int, topology: Topology) -> None:
    if samples % topology.world_size == 0:
        return
    with pytest.raises(PlanError, match="use ") as refused:
        sequences_per_rank(samples, topology)
    offered = str(refused.value).partition("use ")[2].partition(",")[0]
    for legal in offered.split(" or "):
        assert sequences_per_rank(int(legal), topology) >= 1


def test_a_refusal_names_field_values_and_remedy() -> None:
    with pytest.raises(PlanError) as refused:
        micro_batches(24, Topology(nodes=1, gpus_per_node=2), fixed=5)
    assert refused.value.reason == "MicroBatchNotDivisor"
    assert str(refused.value) == (
        "spec.parallelism.microBatch: 5 does not divide the 12 sequences that each of 1 node x 2 GPUs = 2 ranks gets "
        "of globalBatch.samples 24; use 4 or 6, or leave it out"
    )


def test_a_micro_batch_that_is_too_large_is_told_the_largest() -> None:
    with pytest.raises(PlanError, match="use 12, or leave it out"):
        micro_batches(24, Topology(nodes=1, gpus_per_node=2), fixed=13)


@given(topology=TOPOLOGIES)
def test_ranks_are_exactly_the_world(topology: Topology) -> None:
    ranks = [rank for node in range(topology.nodes) for rank in topology.ranks(node)]
    assert ranks == list(range(topology.world_size))


@pytest.mark.parametrize(
    ("sequences", "samples", "epochs", "max_steps", "expected"),
    [
        (66, 16, 3, None, 15),  # five steps an epoch, the fifth of two sequences
        (64, 16, 3, None, 12),
        (66, 16, 0.5, None, 3),
        (66, 16, 3, 10, 10),
        (66, 16, 3, 100, 15),
        (3, 16, 1, None, 1),
        (300, 10, 0.1, None, 3),  # 0.1 x 30 is a hair above 3
    ],
)
def test_steps_of_a_run(sequences: int, samples: int, epochs: float, max_steps: int | None, expected: int) -> None:
    assert total_steps(report(sequences=sequences), training(samples, epochs, max_steps)) == expected


RAMPS: st.SearchStrategy[dict[str, Any] | None] = st.none() | st.builds(
    dict, fromSamples=st.just(1), share=st.floats(0.01, 1)
)


@given(
    sequences=st.integers(1, 100_000),
    samples=st.integers(2, 4096),
    epochs=st.floats(0.01, 100),
    max_steps=st.none() | st.integers(1, 1000),
    ramp=RAMPS,
)
def test_the_trainer_counts_the_same_steps(
    sequences: int, samples: int, epochs: float, max_steps: int | None, ramp: dict[str, Any] | None
) -> None:
    loader = pytest.importorskip("finetune_trainer.data.loader", reason="needs torch")
    opened: Any = SimpleNamespace(training=SimpleNamespace(num_sequences=sequences))
    wanted = training(samples, epochs, max_steps, ramp)
    batch = cut_batch(wanted.global_batch, Topology(nodes=1, gpus_per_node=1), 1)
    theirs = loader.run_steps(opened, batch=batch, epochs=epochs, max_steps=max_steps).total
    assert total_steps(report(sequences=sequences), wanted) == theirs


def test_the_arithmetic_is_written_out() -> None:
    assert batch_words(cut_batch(GlobalBatch(samples=16), Topology(nodes=1, gpus_per_node=4), 2)) == (
        "16 samples = 2 per GPU x 4 GPUs x 2 accumulation"
    )


@given(
    first=st.integers(1, 64),
    times=st.integers(2, 64),
    share=st.floats(0.01, 1),
    sequences=st.integers(1, 5000),
    max_steps=st.none() | st.integers(1, 300),
)
def test_stages_are_the_sizes_that_the_steps_have(
    first: int, times: int, share: float, sequences: int, max_steps: int | None
) -> None:
    wanted = training(first * times, 2.5, max_steps, {"fromSamples": first, "share": share})
    batch = cut_batch(wanted.global_batch, Topology(nodes=1, gpus_per_node=1), 1)
    told = stages(batch, report(sequences=sequences), wanted)
    steps = Steps(sequences, batch, epochs=wanted.epochs, max_steps=max_steps)
    sizes = [steps[number].global_sequences for number in range(1, steps.total + 1)]
    assert [(stage.global_sequences, stage.first_step) for stage in told] == [
        (size, sizes.index(size) + 1) for size in sorted(set(sizes))
    ]


def test_a_growing_batch_is_told_with_its_stages_and_its_steps() -> None:
    ramp = {"fromSamples": 8, "share": 0.5}
    wanted, topology = training(32, 4, None, ramp), Topology(nodes=1, gpus_per_node=4)
    batch = cut_batch(wanted.global_batch, topology, 2)
    assert batch_words(batch) == "32 samples = 2 per GPU x 4 GPUs x 4 accumulation, growing from 8"
    unknown = stages(batch, None, wanted)
    assert stage_words(unknown) == "8, 16, 32 samples"
    known = stages(batch, report(sequences=64), wanted)
    # the ramp takes 128 of 256 sequences, 64 each
    assert known == (
        Stage(global_sequences=8, accumulation_steps=1, first_step=1),
        Stage(global_sequences=16, accumulation_steps=2, first_step=9),
        Stage(global_sequences=32, accumulation_steps=4, first_step=13),
    )
    assert stage_words(known) == "samples per step: 8 from step 1, 16 from step 9, 32 from step 13 on"
    assert total_steps(report(sequences=64), wanted) == 8 + 4 + 4
    assert stages(cut_batch(GlobalBatch(samples=32), topology, 2), report(sequences=64), wanted) == ()


def test_micro_batches_fit_into_every_size_of_a_growing_batch() -> None:
    batch = GlobalBatch(samples=96, ramp=BatchRamp(from_samples=24))
    assert ramped_micro_batches(batch, Topology(nodes=1, gpus_per_node=4), None) == (6, 3, 2, 1)


@pytest.mark.parametrize(
    ("samples", "first", "nearest", "remedy"),
    [
        (96, 12, (16,), "use 16, a smaller parallelism.microBatch, or remove ramp"),
        (192, 24, (16, 32), "use 16 or 32, a smaller parallelism.microBatch, or remove ramp"),
        (16, 4, (), "16; use a smaller parallelism.microBatch, or remove ramp"),
    ],
)
def test_a_ramp_that_no_pass_fits_into_is_refused_with_the_nearest(
    samples: int, first: int, nearest: tuple[int, ...], remedy: str
) -> None:
    topology = Topology(nodes=2, gpus_per_node=2)
    batch = GlobalBatch(samples=samples, ramp=BatchRamp(from_samples=first))
    with pytest.raises(PlanError) as refused:
        ramped_micro_batches(batch, topology, 4)
    assert refused.value.reason == "RampNotDivisible"
    assert remedy in str(refused.value)
    for legal in nearest:
        legal_batch = GlobalBatch(samples=samples, ramp=BatchRamp(from_samples=legal))
        assert ramped_micro_batches(legal_batch, topology, 4) == (4,)
    assert ramped_micro_batches(batch, topology, 1) == (1,)


def training(samples: int, epochs: float, max_steps: int | None, ramp: dict[str, Any] | None = None) -> Training:
    batch = {"samples": samples} | ({"ramp": ramp} if ramp else {})
    return Training.model_validate({"globalBatch": batch, "epochs": epochs, "maxSteps": max_steps})

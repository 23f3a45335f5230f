from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.planning import PlanError
from finetune_operator.planning.batch import batch_words, cut_batch, micro_batches, sequences_per_rank, total_steps
from finetune_operator.planning.topology import Topology
from finetune_operator.resource import Training
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
        batch = cut_batch(samples, topology, size)
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


@given(
    sequences=st.integers(1, 100_000),
    samples=SAMPLES,
    epochs=st.floats(0.01, 100),
    max_steps=st.none() | st.integers(1, 1000),
)
def test_the_trainer_counts_the_same_steps(sequences: int, samples: int, epochs: float, max_steps: int | None) -> None:
    loader = pytest.importorskip("finetune_trainer.data.loader", reason="needs torch")
    opened: Any = SimpleNamespace(training=SimpleNamespace(num_sequences=sequences))
    batch = cut_batch(samples, Topology(nodes=1, gpus_per_node=1), 1)
    theirs = loader.run_steps(opened, batch=batch, epochs=epochs, max_steps=max_steps).total
    assert total_steps(report(sequences=sequences), training(samples, epochs, max_steps)) == theirs


def test_the_arithmetic_is_written_out() -> None:
    assert batch_words(cut_batch(16, Topology(nodes=1, gpus_per_node=4), 2)) == (
        "16 samples = 2 per GPU x 4 GPUs x 2 accumulation"
    )


def training(samples: int, epochs: float, max_steps: int | None) -> Training:
    return Training.model_validate({"globalBatch": {"samples": samples}, "epochs": epochs, "maxSteps": max_steps})

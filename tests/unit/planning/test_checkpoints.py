"""Where a snapshot of what is trained fits into host memory, and where it does not."""

import pytest

from finetune_contract import FullMethod
from finetune_operator.planning import PlanError, make_plan
from finetune_operator.planning.checkpoints import checkpoint_bytes, snapshot_bytes
from finetune_operator.planning.models import SHAPES
from finetune_operator.resource import Qwen3FineTune
from unit.planning.runs import run

FULL = {"type": "Full"}


def is_asynchronous(wanted: Qwen3FineTune) -> bool:
    return make_plan(wanted, model=None, dataset=None, gpu_memory_bytes=None).asynchronous_checkpoints


def full(gpus: int, memory: str = "64Gi", **checkpoint: object) -> Qwen3FineTune:
    return run(
        method=FULL, parallelism={"gpusPerNode": gpus, "strategy": "FSDP"}, resources={"memoryPerGpu": memory},
        checkpoint=checkpoint,
    )  # fmt: skip


def test_a_checkpoint_is_twelve_bytes_per_trained_parameter() -> None:
    assert checkpoint_bytes(SHAPES["8B"], FullMethod()) == 12 * 8_190_735_360
    largest = 4 * 151_936 * 4096
    assert snapshot_bytes(SHAPES["8B"], FullMethod(), 8) == 12 * 8_190_735_360 // 8 + largest


def test_adapters_are_always_written_beside_the_training() -> None:
    assert is_asynchronous(run())
    assert is_asynchronous(run(model={"source": "Volume", "path": "models/mine"}))


def test_a_whole_model_is_where_its_snapshot_fits() -> None:
    assert is_asynchronous(full(8)), "11.4 GiB of snapshot and 2.3 for the largest tensor beside 6 of the process"
    assert not is_asynchronous(full(8, "16Gi"))
    assert not is_asynchronous(full(1))
    unknown = run(method=FULL, model={"source": "Volume", "path": "models/mine"})
    assert not is_asynchronous(unknown)


def test_the_users_word_counts_unless_it_cannot_be() -> None:
    assert not is_asynchronous(run(checkpoint={"asynchronous": False}))
    assert is_asynchronous(full(8, asynchronous=True))
    with pytest.raises(PlanError, match="memoryPerGpu is 16") as caught:
        is_asynchronous(full(8, "16Gi", asynchronous=True))
    assert caught.value.reason == "SnapshotTooLarge"

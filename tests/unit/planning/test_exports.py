"""An export that the host's memory cannot hold is refused before anything is trained."""

import pytest

from finetune_contract import FullMethod
from finetune_operator.planning import PlanError, make_plan
from finetune_operator.planning.exports import export_bytes
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.plan import trained_method
from finetune_operator.planning.quantities import GIB
from finetune_operator.resource import Qwen3FineTune
from unit.planning.runs import TINY, run

TABLE = 4 * 151_936 * 4096
"""Bytes of Qwen3-8B's embedding in fp32."""


def adapters(memory: str, *, gpus: int = 1, merges: bool = False) -> Qwen3FineTune:
    return run(
        resources={"memoryPerGpu": memory}, output={"mergeAdapter": merges}, parallelism={"gpusPerNode": gpus},
        training={"globalBatch": {"samples": 16}},
    )  # fmt: skip


def planned(wanted: Qwen3FineTune) -> None:
    make_plan(wanted, model=None, dataset=None, gpu_memory_bytes=None)


def test_a_model_takes_more_than_an_adapter_and_the_largest_weight_counts() -> None:
    eight = SHAPES["8B"]
    lora = trained_method(adapters("64Gi"))
    assert export_bytes(eight, lora, merges=False) == 2 * TABLE
    assert export_bytes(eight, lora, merges=True) == export_bytes(eight, FullMethod(), merges=False) == 4 * TABLE
    small = 4 * 151_936 * 1024
    assert export_bytes(SHAPES["0.6B"], lora, merges=True) == 4 * small, "tied weights are one"
    assert export_bytes(TINY, lora, merges=True) < 10 * 2**20
    experts = 4 * 128 * 2 * 768 * 2048
    assert export_bytes(SHAPES["30B-A3B"], lora, merges=True) == max(4 * experts, 4 * 4 * 151_936 * 2048)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(PlanError, match=r"memoryPerGpu: 5Gi x 1 GPUs is 5.0 GiB .* set it to 6Gi") as caught:
        planned(adapters("5Gi"))
    assert caught.value.reason == "ExportTooLarge"
    planned(adapters("6Gi"))
    with pytest.raises(PlanError, match="set it to 11Gi"):
        planned(adapters("10Gi", merges=True))
    planned(adapters("11Gi", merges=True))


def test_ranks_of_a_node_share_its_pods_memory() -> None:
    need = 4 * GIB + 4 * TABLE
    planned(adapters(f"{-(-need // (4 * GIB))}Gi", gpus=4, merges=True))
    with pytest.raises(PlanError, match="x 4 GPUs"):
        planned(adapters(f"{need // (4 * GIB)}Gi", gpus=4, merges=True))

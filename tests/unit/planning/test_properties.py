"""What must hold for every run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_contract import ModelFacts
from finetune_operator.planning import Plan, PlanError, make_plan, plan_status
from finetune_operator.planning.memory import total
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.quantities import GIB
from finetune_operator.resource import InvalidResourceError, Qwen3FineTune
from unit.planning.runs import TINY, report, run

STRATEGIES: list[dict[str, Any]] = [
    {},
    {"strategy": "DDP"},
    {"strategy": "FSDP", "fsdp": {"reshardAfterForward": False}},
    {"strategy": "FSDP", "fsdp": {"cpuOffload": True}},
    {"strategy": "DeepSpeed", "deepspeed": {"stage": 1}},
    {"strategy": "DeepSpeed", "deepspeed": {"stage": 3, "offloadOptimizer": "CPU"}},
]
SPECS = st.fixed_dictionaries(
    {
        "method": st.sampled_from([{"type": "LoRA"}, {"type": "Full"}, {"type": "LoRA", "lora": {"dropout": 0.1}}]),
        "dataset": st.builds(lambda tokens: {"path": "a", "maxTokens": tokens}, st.sampled_from([128, 1024, 8192])),
        "training": st.builds(
            lambda samples, precision: {"globalBatch": {"samples": samples}, "precision": precision},
            st.sampled_from([8, 16, 48, 64]),
            st.sampled_from(["Bf16", "Fp16", "Fp32"]),
        ),
        "parallelism": st.builds(
            lambda nodes, gpus, strategy: {"nodes": nodes, "gpusPerNode": gpus} | strategy,
            st.sampled_from([1, 2]),
            st.sampled_from([1, 2, 4]),
            st.sampled_from(STRATEGIES),
        ),
        "resources": st.builds(lambda memory: {"memoryPerGpu": memory}, st.sampled_from(["32Gi", "256Gi"])),
    }
)
MODELS = st.sampled_from([TINY, *SHAPES.values()])
MEMORY = st.integers(1, 200).map(lambda gib: gib * GIB)


def planned(wanted: Qwen3FineTune, model: ModelFacts, gpu_memory_bytes: int | None) -> Plan | PlanError:
    try:
        return make_plan(wanted, model=model, dataset=report(), gpu_memory_bytes=gpu_memory_bytes)
    except PlanError as refused:
        return refused


@given(spec=SPECS, model=MODELS, memory=MEMORY, more=MEMORY)
def test_more_gpu_memory_never_turns_a_fit_into_a_refusal(
    spec: dict[str, Any], model: ModelFacts, memory: int, more: int
) -> None:
    wanted = run(**spec)
    first, second = planned(wanted, model, memory), planned(wanted, model, memory + more)
    if isinstance(first, Plan):
        assert isinstance(second, Plan)


@given(spec=SPECS, model=MODELS, memory=MEMORY)
def test_a_plan_fits_and_keeps_the_global_batch(spec: dict[str, Any], model: ModelFacts, memory: int) -> None:
    wanted = run(**spec)
    made = planned(wanted, model, memory)
    if isinstance(made, Plan):
        assert total(made.memory) <= memory
        assert made.batch.global_sequences == spec["training"]["globalBatch"]["samples"]
        assert made.batch.world_size == made.nodes * made.gpus_per_node
        assert plan_status(made, wanted.spec.model).memory_bytes == total(made.memory)


@given(spec=SPECS, model=MODELS, memory=st.none() | MEMORY)
def test_planning_twice_is_equal_and_touches_no_input(
    spec: dict[str, Any], model: ModelFacts, memory: int | None
) -> None:
    wanted = run(**spec)
    before = wanted.model_dump_json()
    first, second = planned(wanted, model, memory), planned(wanted, model, memory)
    assert wanted.model_dump_json() == before
    assert str(first) == str(second)
    assert not isinstance(first, Plan) or first == second


@given(spec=SPECS, model=MODELS)
def test_an_unknown_gpu_is_never_a_reason_to_refuse(spec: dict[str, Any], model: ModelFacts) -> None:
    made = planned(run(**spec), model, None)
    assert isinstance(made, Plan)
    assert made.gpu_memory_bytes is None


def test_a_batch_that_the_ranks_cannot_share_never_reaches_planning() -> None:
    with pytest.raises(InvalidResourceError, match="use 8 or 12"):
        run(parallelism={"gpusPerNode": 4}, training={"globalBatch": {"samples": 9}})

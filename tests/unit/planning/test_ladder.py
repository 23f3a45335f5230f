"""What each remedy makes of each way to run, and what it leaves alone."""

from typing import Any

import pytest

from finetune_contract import FullMethod, LoraMethod, QloraMethod
from finetune_operator.planning import Plan, PlanError, Planner, make_plan, remedied, remedy_words
from finetune_operator.planning.ladder import pinned_by
from finetune_operator.planning.memory import total
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.quantities import GIB
from finetune_operator.planning.strategy import parallelism_words
from finetune_operator.resource import MemoryRemedy, Qwen3FineTune
from finetune_operator.status import PinnedStatus, RecoveryStatus
from unit.planning.runs import report, run

FULL: dict[str, Any] = {"method": {"type": "Full"}}
ROOMY: dict[str, Any] = {"resources": {"memoryPerGpu": "512Gi"}}
DDP, FSDP = "DDP", "FSDP"


def deepspeed(stage: int, **fields: Any) -> dict[str, Any]:
    return {"strategy": "DeepSpeed", "deepspeed": {"stage": stage, **fields}}


def of(wanted: Qwen3FineTune, *, gib: int | None = 4000) -> Planner:
    """Plans of `wanted` with something settled."""

    def plan(pinned: PinnedStatus) -> Plan | PlanError:
        try:
            return made(wanted, RecoveryStatus(pinned=pinned), gib=gib)
        except PlanError as error:
            return error

    return plan


def made(wanted: Qwen3FineTune, recovery: RecoveryStatus | None = None, *, gib: int | None = 4000) -> Plan:
    memory = None if gib is None else gib * GIB
    return make_plan(wanted, model=SHAPES["8B"], dataset=report(), gpu_memory_bytes=memory, recovery=recovery)


def after(remedy: MemoryRemedy, wanted: Qwen3FineTune) -> Plan | None:
    """The plan with `remedy`, after the plan on a GPU in which everything fits; None: it is not possible."""
    found = remedied(remedy, wanted, made(wanted), of(wanted))
    return None if found is None else found[1]


def parallel(**fields: Any) -> Qwen3FineTune:
    return run(parallelism={"gpusPerNode": 4} | fields, **ROOMY, **FULL)


@pytest.mark.parametrize(
    ("block", "remedy", "words"),
    [
        ({"strategy": "DDP"}, "ShardMore", "FSDP"),
        ({"strategy": "FSDP", "fsdp": {"reshardAfterForward": False}}, "ShardMore", "FSDP"),
        ({"strategy": "FSDP"}, "ShardMore", None),
        (deepspeed(1), "ShardMore", "DeepSpeed ZeRO-2"),
        (deepspeed(2), "ShardMore", "DeepSpeed ZeRO-3"),
        (deepspeed(2, offloadOptimizer="CPU"), "ShardMore", "DeepSpeed ZeRO-3, optimizer on CPU"),
        (deepspeed(3), "ShardMore", None),
        ({"strategy": "DDP"}, "OffloadOptimizer", "DeepSpeed ZeRO-2, optimizer on CPU"),
        ({"strategy": "FSDP"}, "OffloadOptimizer", "DeepSpeed ZeRO-3, optimizer on CPU"),
        ({"strategy": "FSDP", "fsdp": {"cpuOffload": True}}, "OffloadOptimizer", None),
        (deepspeed(1), "OffloadOptimizer", "DeepSpeed ZeRO-1, optimizer on CPU"),
        (deepspeed(2, offloadOptimizer="CPU"), "OffloadOptimizer", None),
        ({"strategy": "DDP"}, "OffloadParameters", "DeepSpeed ZeRO-3, optimizer and parameters on CPU"),
        ({"strategy": "FSDP"}, "OffloadParameters", "FSDP, shards on CPU"),
        (deepspeed(2), "OffloadParameters", "DeepSpeed ZeRO-3, optimizer and parameters on CPU"),
        (
            deepspeed(3, offloadOptimizer="CPU"),
            "OffloadParameters",
            "DeepSpeed ZeRO-3, optimizer and parameters on CPU",
        ),
        (deepspeed(3, offloadOptimizer="CPU", offloadParameters="CPU"), "OffloadParameters", None),
    ],
)
def test_the_next_way_to_share_the_work(block: dict[str, Any], remedy: str, words: str | None) -> None:
    wanted = parallel(**block)
    found = after(MemoryRemedy(remedy), wanted)
    assert (None if found is None else parallelism_words(found.parallelism)) == words
    if found is not None:
        before = made(wanted)
        assert (found.batch, found.activation_checkpointing) == (before.batch, before.activation_checkpointing)


def test_a_single_gpu_has_nobody_to_share_with() -> None:
    assert after(MemoryRemedy.SHARD_MORE, run(**FULL)) is None


@pytest.mark.parametrize(
    ("samples", "ranks", "first", "then"),
    [(64, 4, 16, [8, 4, 2, 1]), (24, 2, 12, [6, 3, 1]), (15, 1, 15, [5, 1]), (4, 4, 1, [])],
)
def test_the_micro_batch_is_halved_as_far_as_the_global_batch_can_be_cut(
    samples: int, ranks: int, first: int, then: list[int]
) -> None:
    wanted = run(training={"globalBatch": {"samples": samples}}, parallelism={"gpusPerNode": ranks})
    plan, found = made(wanted), list[int]()
    assert plan.batch.micro_sequences == first
    while (change := remedied(MemoryRemedy.MICRO_BATCH, wanted, plan, of(wanted))) is not None:
        plan = change[1]
        found.append(plan.batch.micro_sequences)
        assert plan.batch.micro_sequences * plan.batch.accumulation_steps * ranks == samples
    assert found == then


def test_a_growing_batch_is_cut_so_that_its_first_size_is_whole() -> None:
    ramp = {"samples": 48, "ramp": {"fromSamples": 6}}
    wanted = run(training={"globalBatch": ramp}, parallelism={"gpusPerNode": 2})
    assert made(wanted).batch.micro_sequences == 3
    halved = after(MemoryRemedy.MICRO_BATCH, wanted)
    assert halved is not None
    assert (halved.batch.micro_sequences, halved.batch.ramp) == (1, made(wanted).batch.ramp)


def test_what_the_spec_fixes_is_a_beginning() -> None:
    wanted = run(parallelism={"microBatch": 8, "activationCheckpointing": "None", "strategy": "DDP"})
    halved, recomputed = (
        after(remedy, wanted) for remedy in (MemoryRemedy.MICRO_BATCH, MemoryRemedy.ACTIVATION_CHECKPOINTING)
    )
    assert halved is not None
    assert recomputed is not None
    assert (halved.batch.micro_sequences, halved.activation_checkpointing) == (4, "None")
    assert (recomputed.batch.micro_sequences, recomputed.activation_checkpointing) == (8, "Full")
    full = run(parallelism={"activationCheckpointing": "Full"})
    assert after(MemoryRemedy.ACTIVATION_CHECKPOINTING, full) is None


def test_only_the_base_of_an_adapter_can_be_quantised() -> None:
    wanted = run(method={"type": "LoRA", "lora": {"rank": 16}})
    found = after(MemoryRemedy.QLORA, wanted)
    assert found is not None
    before = made(wanted).method
    assert isinstance(before, LoraMethod)
    assert isinstance(found.method, QloraMethod)
    fields = before.model_dump(exclude={"type"})
    assert found.method.model_dump(exclude={"type", "quantization"}) == fields
    assert after(MemoryRemedy.QLORA, run(method={"type": "QLoRA"})) is None
    assert after(MemoryRemedy.QLORA, run(**FULL)) is None
    assert isinstance(made(run(**FULL)).method, FullMethod)


def test_what_would_take_more_is_no_remedy() -> None:
    """A small adapter's optimizer is smaller than the buckets of the engine that could offload it."""
    assert after(MemoryRemedy.OFFLOAD_OPTIMIZER, run(training={"precision": "Fp32"})) is None


def test_what_the_host_cannot_hold_is_not_offloaded() -> None:
    sharded = {"gpusPerNode": 4, "strategy": "FSDP"}
    assert after(MemoryRemedy.OFFLOAD_PARAMETERS, run(parallelism=sharded, **FULL, **ROOMY)) is not None
    small = run(parallelism=sharded, **FULL, resources={"memoryPerGpu": "24Gi"})
    assert after(MemoryRemedy.OFFLOAD_PARAMETERS, small) is None


def test_what_is_on_the_host_already_may_stay_there() -> None:
    offloaded = {"gpusPerNode": 4, "strategy": "FSDP", "fsdp": {"cpuOffload": True}}
    wanted = run(parallelism=offloaded | {"microBatch": 2}, **FULL, resources={"memoryPerGpu": "24Gi"})
    plan = made(wanted, gib=None)
    assert plan.host_bytes > 24 * GIB, "the GPU is not known, so fit was not checked"
    assert remedied(MemoryRemedy.MICRO_BATCH, wanted, plan, of(wanted, gib=None)) is not None


def test_a_settled_plan_is_kept_whatever_the_estimate_says() -> None:
    wanted = run(parallelism={"gpusPerNode": 4})
    pinned = pinned_by(made(wanted)).model_copy(update={"micro_batch": 2})
    for gib in (1, 80, 4000):
        plan = made(wanted, RecoveryStatus(pinned=pinned), gib=gib)
        assert pinned_by(plan) == pinned
    assert total(made(wanted, RecoveryStatus(pinned=pinned), gib=1).memory) > GIB


def test_buckets_that_the_spec_names_are_kept() -> None:
    wanted = parallel(**deepspeed(1, reduceBucketElements=50_000_000, overlapCommunication=False))
    found = after(MemoryRemedy.SHARD_MORE, wanted)
    assert found is not None
    kept = {"stage", "type"}
    assert found.parallelism.model_dump(exclude=kept) == made(wanted).parallelism.model_dump(exclude=kept)


def test_words_name_what_the_remedy_changes() -> None:
    plan = made(run(parallelism={"gpusPerNode": 4, "microBatch": 2}, training={"globalBatch": {"samples": 8}}))
    assert {remedy: remedy_words(remedy, plan) for remedy in MemoryRemedy} == {
        "MicroBatch": "micro-batch 2 and 1 accumulation step",
        "ActivationCheckpointing": "activation checkpointing None",
        "ShardMore": "DDP",
        "OffloadOptimizer": "DDP",
        "OffloadParameters": "DDP",
        "QLoRA": "method LoRA",
    }

"""Which plan is made of which run, and what a run is told that cannot work."""

from typing import Any

import pytest

from finetune_contract import ActivationCheckpointing, DdpParallelism, DeepSpeedParallelism, FsdpParallelism
from finetune_operator.planning import Plan, PlanError, check_limits, make_plan
from finetune_operator.planning.memory import total
from finetune_operator.planning.models import SHAPES
from finetune_operator.planning.quantities import GIB
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Fabric, Gangs, Kueue, Limits, Settings
from unit.planning.runs import TINY, report, run


def plan(example: Qwen3FineTune, *, gib: float | None = None, **facts: Any) -> Plan:
    known = {"model": None, "dataset": None} | facts
    return make_plan(example, gpu_memory_bytes=int(gib * GIB) if gib else None, **known)


def refusal(example: Qwen3FineTune, **facts: Any) -> PlanError:
    with pytest.raises(PlanError) as refused:
        plan(example, **facts)
    return refused.value


def test_what_fits_one_gpu_is_not_sharded() -> None:
    made = plan(run(parallelism={"gpusPerNode": 4}), gib=80)
    assert made.parallelism == DdpParallelism()
    assert made.activation_checkpointing is ActivationCheckpointing.NONE
    assert (made.nodes, made.gpus_per_node, made.batch.world_size) == (1, 4, 4)


def test_activations_are_recomputed_when_they_must_be() -> None:
    made = plan(run(), gib=40)
    assert made.parallelism == DdpParallelism()
    assert made.activation_checkpointing is ActivationCheckpointing.FULL


def test_what_fits_no_gpu_is_sharded() -> None:
    made = plan(run(model={"id": "Qwen/Qwen3-32B"}, parallelism={"gpusPerNode": 8}), gib=48)
    assert made.parallelism == FsdpParallelism()


def test_what_does_not_fit_sharded_is_offloaded() -> None:
    spec: dict[str, Any] = {"method": {"type": "Full"}, "dataset": {"path": "a", "maxTokens": 1024}}
    made = plan(run(**spec, resources={"memoryPerGpu": "200Gi"}), gib=24)
    assert isinstance(made.parallelism, DeepSpeedParallelism)
    assert made.parallelism.stage == 3


def test_the_largest_micro_batch_that_fits_is_taken() -> None:
    assert plan(run(), gib=80).batch.micro_sequences == 1
    assert plan(run(), gib=110).batch.micro_sequences == 2
    assert plan(run(dataset={"path": "a", "maxTokens": 256}), gib=80).batch.micro_sequences == 16


def test_the_prepared_dataset_makes_the_plan_final() -> None:
    first = plan(run(), gib=80)
    final = plan(run(), gib=80, model=SHAPES["8B"], dataset=report(longest_sequence=1024))
    assert (first.is_final, first.total_steps) == (False, None)
    assert (final.is_final, final.total_steps) == (True, 15)
    assert final.batch.micro_sequences > first.batch.micro_sequences


def test_packed_logits_are_counted_by_the_supervised_share() -> None:
    counted = {each.name: each.bytes for each in plan(run(), gib=80, model=SHAPES["8B"], dataset=report()).memory}
    assumed = {each.name: each.bytes for each in plan(run(), gib=80).memory}
    assert counted["logits"] == pytest.approx(assumed["logits"] * 1.5 * 91_106 / 260_303, rel=1e-3)


def test_without_packing_a_sequence_may_be_all_answer() -> None:
    apart = run(dataset={"path": "a", "packing": False})
    counted = {each.name: each.bytes for each in plan(apart, gib=80, model=SHAPES["8B"], dataset=report()).memory}
    assert counted["logits"] == 4096 * 151_936 * 10


def test_the_users_word_about_the_gpu_comes_before_the_nodes() -> None:
    assert plan(run(resources={"gpuMemory": "80Gi"}), gib=24).gpu_memory_bytes == 80 * GIB
    assert plan(run(), gib=80).gpu_memory_bytes == 80 * GIB


def test_an_unknown_gpu_gets_a_careful_plan_and_no_refusal() -> None:
    made = plan(run(parallelism={"gpusPerNode": 2}))
    assert made.gpu_memory_bytes is None
    assert made.batch.micro_sequences == 1
    assert made.activation_checkpointing is ActivationCheckpointing.FULL
    tiny = plan(run(model={"source": "Volume", "path": "tiny"}), model=TINY, dataset=report(longest_sequence=256))
    assert tiny.activation_checkpointing is ActivationCheckpointing.NONE


def test_on_an_unknown_gpu_what_fits_no_large_one_is_sharded() -> None:
    full: dict[str, Any] = {"method": {"type": "Full"}, "parallelism": {"gpusPerNode": 8}}
    assert plan(run(**full)).parallelism == FsdpParallelism()
    assert plan(run(parallelism={"gpusPerNode": 8})).parallelism == DdpParallelism()


def test_an_unknown_model_is_planned_when_it_has_been_prepared() -> None:
    made = plan(run(model={"source": "Volume", "path": "mine"}), gib=80)
    assert (made.memory, made.is_final, made.batch.micro_sequences) == ((), False, 1)


def test_what_the_user_fixed_is_kept() -> None:
    spec = {"strategy": "DeepSpeed", "deepspeed": {"stage": 1, "overlapCommunication": False}, "microBatch": 2}
    made = plan(run(parallelism=spec | {"activationCheckpointing": "Full"}), gib=80)
    assert made.parallelism == DeepSpeedParallelism(stage=1, overlap_communication=False)
    assert made.activation_checkpointing is ActivationCheckpointing.FULL
    assert (made.batch.micro_sequences, made.batch.accumulation_steps) == (2, 8)


def test_a_refusal_shows_need_against_have_by_component() -> None:
    refused = refusal(run(parallelism={"activationCheckpointing": "None", "strategy": "DDP"}), gib=40)
    assert refused.reason == "DoesNotFit"
    text = str(refused)
    assert "one GPU needs 56." in text
    assert "has 40.0 GiB" in text
    assert "activations 32.1 GiB, weights 15.3 GiB, logits 5.8 GiB" in text


@pytest.mark.parametrize(
    ("spec", "gib", "remedy"),
    [
        ({"parallelism": {"activationCheckpointing": "None", "strategy": "DDP"}}, 40, "activationCheckpointing Full"),
        ({"parallelism": {"microBatch": 4, "activationCheckpointing": "None"}}, 80, "spec.parallelism.microBatch 2"),
        ({"dataset": {"path": "a", "maxTokens": 131072}}, 80, "spec.dataset.maxTokens 32768"),
        ({"method": {"type": "Full"}}, 80, "nodes 1 and gpusPerNode 2 with strategy FSDP"),
        ({"method": {"type": "Full"}}, 80, "spec.method.type LoRA"),
        ({"method": {"type": "Full"}}, 80, "spec.resources.memoryPerGpu"),
        (
            {"method": {"type": "Full"}, "parallelism": {"strategy": "DDP", "gpusPerNode": 8}},
            80,
            "spec.parallelism.strategy FSDP",
        ),
    ],
)
def test_a_refusal_says_what_would_fit(spec: dict[str, Any], gib: int, remedy: str) -> None:
    assert remedy in str(refusal(run(**spec), gib=gib)).partition("What fits: ")[2]


def test_host_memory_is_checked_where_state_is_offloaded() -> None:
    offload = {
        "strategy": "DeepSpeed",
        "deepspeed": {"stage": 3, "offloadOptimizer": "CPU", "offloadParameters": "CPU"},
    }
    refused = refusal(run(method={"type": "Full"}, parallelism=offload), gib=80)
    assert str(refused).startswith("spec.resources.memoryPerGpu: 64Gi")
    enough = run(method={"type": "Full"}, parallelism=offload, resources={"memoryPerGpu": "160Gi"})
    assert total(plan(enough, gib=80).memory) < 80 * GIB


def test_when_nothing_fits_nothing_is_promised() -> None:
    refused = refusal(run(model={"id": "Qwen/Qwen3-32B"}, training={"globalBatch": {"samples": 1}}), gib=1)
    assert str(refused).endswith("What fits: a smaller model, or GPUs with more memory")


def test_a_dataset_without_training_sequences_is_refused_with_the_reason() -> None:
    empty = report(sequences=0, rows=0, dropped_rows=12)
    refused = refusal(run(), dataset=empty, model=SHAPES["8B"])
    assert refused.reason == "NoTrainingRows"
    assert "12 dropped" in str(refused)
    assert "the longest row has 253 tokens" in str(refused)


HELD_OUT: dict[str, Any] = {"dataset": {"path": "rows.json", "validation": {"fraction": 0.001}}}


def test_evaluation_without_a_row_that_is_held_out_is_refused_with_the_reason() -> None:
    nothing = report(validation_rows=0, rows=400)
    refused = refusal(run(**HELD_OUT, evaluation={"patience": 3}), dataset=nothing, model=SHAPES["8B"])
    assert refused.reason == "NoValidationRows"
    assert "of 400 rows validation.fraction 0.001 takes none of the rows; raise the fraction" in str(refused)
    own = {"path": "rows.json", "validation": {"path": "held-out.json"}}
    refused = refusal(run(dataset=own, evaluation={"keepBest": True}), dataset=nothing, model=SHAPES["8B"])
    assert "validation's source has none" in str(refused)
    plan(run(**HELD_OUT), dataset=nothing, model=SHAPES["8B"])
    plan(run(**HELD_OUT, evaluation={"patience": 3}), dataset=report(), model=SHAPES["8B"])


@pytest.mark.parametrize(
    ("schedule", "legal", "said"),
    [
        ({"type": "Cosine", "warmupSteps": 15}, 14, "the run has 15 steps, and the peak is to be reached"),
        ({"type": "WarmupStableDecay", "warmupSteps": 12, "decayRatio": 0.3}, 10, "decayRatio 0.3 takes 5 of them"),
    ],
    ids=["Cosine", "WarmupStableDecay"],
)
def test_a_warm_up_that_does_not_end_in_time_is_refused_with_the_longest(
    schedule: dict[str, Any], legal: int, said: str
) -> None:
    known: dict[str, Any] = {"dataset": report(), "model": SHAPES["8B"]}
    refused = refusal(run(training={"schedule": schedule}), **known)
    assert refused.reason == "ScheduleTooLong"
    assert said in str(refused)
    assert f"use at most {legal}" in str(refused)
    assert plan(run(training={"schedule": schedule | {"warmupSteps": legal}}), **known).total_steps == 15
    assert refusal(run(training={"schedule": schedule | {"warmupSteps": legal + 1}}), **known)


def test_a_whole_model_has_no_adapter_to_merge() -> None:
    assert refusal(run(method={"type": "Full"}, output={"mergeAdapter": True})).reason == "NothingToMerge"


def test_what_the_admin_does_not_allow_is_refused_all_at_once() -> None:
    most = Limits(max_nodes=2, max_gpus_per_node=4, max_memory_per_gpu="48Gi", priority_classes=("normal",))
    limits = Settings(limits=most)
    wanted = run(
        parallelism={"nodes": 4, "gpusPerNode": 8},
        training={"globalBatch": {"samples": 32}},
        scheduling={"priorityClass": "urgent"},
        resources={"memoryPerGpu": "64Gi"},
    )
    with pytest.raises(PlanError) as refused:
        check_limits(wanted, limits)
    assert refused.value.reason == "LimitExceeded"
    assert str(refused.value).splitlines() == [
        "spec.parallelism.nodes: 4 is more than the 2 allowed here",
        "spec.parallelism.gpusPerNode: 8 is more than the 4 allowed here; use more nodes",
        "spec.resources.memoryPerGpu: 64Gi is more than the 48Gi allowed here; use more GPUs",
        "spec.scheduling.priorityClass: 'urgent' is not allowed here; allowed: normal",
    ]
    within: dict[str, Any] = {"parallelism": {"nodes": 2, "gpusPerNode": 4}, "resources": {"memoryPerGpu": "48Gi"}}
    check_limits(run(**within, scheduling={"priorityClass": "normal"}), limits)


def test_queues_gangs_and_fabrics_that_the_cluster_does_not_offer_are_refused_with_what_it_does() -> None:
    offered = Settings(
        limits=Limits(queues=("research", "night"), queue_priority_classes=("low",)),
        gangs=Gangs(kueue=Kueue(enabled=True)),
        fabrics={"efa": Fabric(), "infiniband": Fabric()},
    )
    wanted = run(
        parallelism={"fabric": "roce"},
        scheduling={"gang": "Kueue", "queue": "production", "queuePriorityClass": "high"},
    )
    with pytest.raises(PlanError) as refused:
        check_limits(wanted, offered)
    assert str(refused.value).splitlines() == [
        "spec.scheduling.queue: 'production' is not allowed here; allowed: research, night",
        "spec.scheduling.queuePriorityClass: 'high' is not allowed here; allowed: low",
        "spec.parallelism.fabric: 'roce' is not allowed here; allowed: efa, infiniband",
    ]
    with pytest.raises(
        PlanError, match=r"spec\.scheduling\.gang: 'Volcano' is not allowed here; allowed: None, Kueue$"
    ):
        check_limits(run(scheduling={"gang": "Volcano"}), offered)
    with pytest.raises(PlanError, match=r"gang: 'Kueue' .* allowed: None\n.*queue: 'research' .* allowed: none$"):
        check_limits(run(scheduling={"gang": "Kueue", "queue": "research"}), Settings())
    anything = offered.model_copy(update={"limits": Limits(queues=("*",))})
    check_limits(run(scheduling={"gang": "Kueue", "queue": "production"}), anything)


def test_sources_and_stores_that_the_admin_does_not_allow_are_refused() -> None:
    store = {"source": "S3", "url": "s3://bucket/rows.jsonl"}
    wanted = run(
        model={"id": "Qwen/Qwen3-8B"},
        dataset={
            "mix": [{"path": "rows.json"}, store | {"s3": {"endpoint": "http://169.254.169.254"}}],
            "validation": {"source": "ModelScope", "id": "team/rows"},
        },
    )
    with pytest.raises(PlanError) as refused:
        check_limits(wanted, Settings(limits=Limits(sources=("Volume", "S3"), s3_endpoints=("https://minio.example",))))
    assert str(refused.value).splitlines() == [
        "spec.model.source: HuggingFace is not allowed here; allowed: Volume, S3",
        "spec.dataset.mix[1].s3.endpoint: http://169.254.169.254 is not allowed here; allowed: https://minio.example",
        "spec.dataset.validation.source: ModelScope is not allowed here; allowed: Volume, S3",
    ]
    with pytest.raises(PlanError, match=r"spec\.dataset\.s3\.endpoint: .* allowed: Amazon's alone"):
        check_limits(run(dataset=store | {"s3": {"endpoint": "https://minio.example"}}), Settings())
    check_limits(run(dataset=store), Settings())
    check_limits(wanted, Settings(limits=Limits(s3_endpoints=("*",))))

"""An attempt whose memory did not suffice: what the next one runs with, and what is told of it."""

from typing import Any

import pytest

from finetune_contract import ExitCode
from finetune_operator.lifecycle import StartAttempt, StopAttempt, reopened, suspect_nodes
from finetune_operator.observation import Attempt, Worker, WorkerState
from finetune_operator.resource import MemoryRemedy
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import ConditionType, Phase, RecoveryStatus
from support.runs import attempt, checkpoint, failed_outcome, there, worker
from unit.lifecycle.story import Story, trained

FAILED = WorkerState.FAILED
FOR_EVER = 2 * 3600
"""Seconds that no phase of a run may stand still for."""
OUT_OF_MEMORY = failed_outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory", step=2)
EIGHT: dict[str, Any] = {"nodes": 2, "microBatch": 8, "activationCheckpointing": "None", "strategy": "DDP"}
"""Eight sequences at once, and two ranks of them are the global batch."""
ROOMY: dict[str, Any] = {"memoryPerGpu": "512Gi"}


def starved(number: int = 1) -> Attempt:
    """An attempt that ran out of GPU memory after step 2."""
    return attempt(
        worker(0, FAILED, outcome=OUT_OF_MEMORY), worker(1, FAILED, exit_code=1), number=number, is_failed=True
    )


def killed(number: int = 1) -> Attempt:
    """An attempt of which a pod was killed at its memory limit."""
    return attempt(
        worker(0, FAILED, reason="OOMKilled", exit_code=137), worker(1, FAILED), number=number, is_failed=True
    )


def story(**spec: Any) -> Story:
    return Story(**{"parallelism": EIGHT, "resources": ROOMY} | spec)


def begun(told: Story, **progress: Any) -> None:
    """The run is planned, and its first attempt has done ten steps."""
    told.see()
    told.see(trained(**progress))


def plans(told: Story) -> list[tuple[str, int, int, str]]:
    """Strategy, micro-batch, accumulation and checkpointing of every attempt, until nothing is left to be done."""
    begun(told)
    found, number = list[tuple[str, int, int, str]](), 1
    while True:
        plan = there(told.status.plan)
        assert plan.micro_batch * plan.accumulation_steps * plan.gpus == plan.global_batch == 16
        found.append((plan.strategy, plan.micro_batch, plan.accumulation_steps, plan.activation_checkpointing))
        decision = told.see(starved(number), after=5)
        if told.phase() is Phase.FAILED:
            return found
        number += 1
        assert decision.actions == (StartAttempt(number),)
        told.see(attempt(number=number), after=5)


def test_the_ladder_is_climbed_rung_by_rung() -> None:
    told = story(method={"type": "Full"})
    zero3 = "DeepSpeed ZeRO-3, optimizer"
    assert plans(told) == [
        ("DDP", 8, 1, "None"),
        ("DDP", 4, 2, "None"),
        ("DDP", 2, 4, "None"),
        ("DDP", 1, 8, "None"),
        ("DDP", 1, 8, "Full"),
        ("FSDP", 1, 8, "Full"),
        (f"{zero3} on CPU", 1, 8, "Full"),
        (f"{zero3} and parameters on CPU", 1, 8, "Full"),
    ]
    status = told.status
    assert [record.decision for record in status.attempts] == ["Remedy"] * 7 + ["GiveUp"]
    assert [record.remedy for record in status.attempts] == [
        *["MicroBatch"] * 3,
        *("ActivationCheckpointing", "ShardMore", "OffloadOptimizer", "OffloadParameters", None),
    ]
    assert (status.failures, status.restarts) == (0, 7), "the budget is for what may pass"


def test_the_order_of_the_spec_is_kept() -> None:
    wanted = ["ActivationCheckpointing", "MicroBatch"]
    assert plans(story(recovery={"onOutOfMemory": wanted})) == [
        ("DDP", 8, 1, "None"),
        ("DDP", 8, 1, "Full"),
        ("DDP", 4, 2, "Full"),
        ("DDP", 2, 4, "Full"),
        ("DDP", 1, 8, "Full"),
    ]


def test_a_run_that_has_tried_everything_says_what_and_what_else_there_is() -> None:
    told = story(recovery={"onOutOfMemory": ["ActivationCheckpointing"]})
    plans(told)
    failure = there(told.status.failure)
    assert failure.reason == "OutOfMemory"
    assert "tried in vain: activation checkpointing Full instead of activation checkpointing None" in failure.message
    assert "leaves out MicroBatch, ShardMore" in failure.message
    assert "QLoRA, which would take less; lower dataset.maxTokens" in failure.message


def test_without_remedies_the_run_ends_with_advice() -> None:
    told = story(recovery={"onOutOfMemory": []})
    assert len(plans(told)) == 1
    message = there(told.status.failure).message
    assert "spec.recovery.onOutOfMemory leaves out MicroBatch, ActivationCheckpointing, ShardMore" in message
    assert "tried" not in message


def test_evidence_of_any_length_leaves_room_for_the_advice() -> None:
    told = story(recovery={"onOutOfMemory": []})
    begun(told)
    long = failed_outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory", message="GPU 0 has " * 200)
    told.see(attempt(worker(0, FAILED, outcome=long), worker(1, FAILED), is_failed=True), after=20)
    message = there(told.status.attempts[0].message)
    assert len(message) <= 1024
    assert message.endswith("training.globalBatch keeps its meaning throughout")


def test_what_happened_reads_like_an_explanation() -> None:
    told = story()
    begun(told)
    told.see(starved(), after=5)
    assert told.events[-2:] == ["AttemptEnded", "Remedied"]
    assert told.told[-1] == (
        "attempt 1 ran out of memory after step 10 with micro-batch 8 and 1 accumulation step; "
        "attempt 2 runs with micro-batch 4 and 2 accumulation steps: the global batch stays 16 sequences"
    )
    assert told.condition(ConditionType.RUNNING).message.endswith(
        "attempt 2 runs with micro-batch 4 and 2 accumulation steps: the global batch stays 16 sequences"
    )
    assert told.phase() is Phase.RESTARTING
    remedy = there(told.status.recovery).remedies[0]
    assert (remedy.after_attempt, remedy.remedy) == (1, "MicroBatch")


def test_a_remedy_outlives_every_other_end() -> None:
    told = story()
    begun(told)
    told.see(starved(), after=5)
    told.see(attempt(number=2))
    lost = worker(1, FAILED, disruption="PreemptionByScheduler")
    told.see(attempt(worker(0, FAILED, exit_code=1), lost, number=2, is_failed=True), after=5)
    assert there(told.status.plan).micro_batch == 4
    told.see(attempt(number=3))
    told.see(starved(3), after=5)
    assert there(told.status.plan).micro_batch == 2
    assert [each.after_attempt for each in there(told.status.recovery).remedies] == [1, 3]


def test_a_failed_run_that_is_reopened_keeps_what_it_has_learnt() -> None:
    told = story(recovery={"onOutOfMemory": ["ActivationCheckpointing"]})
    plans(told)
    told.status = reopened(told.status)
    assert told.see().actions == (StartAttempt(3),)
    assert there(told.status.plan).activation_checkpointing == "Full"


def test_another_base_is_taken_only_if_it_is_asked_for() -> None:
    told = story(recovery={"onOutOfMemory": ["QLoRA"]})
    begun(told)
    told.see(starved(), after=5)
    assert (there(told.status.plan).method, there(there(told.status.recovery).pinned).method) == ("QLoRA", "QLoRA")
    assert told.told[-1].endswith("attempt 2 runs with method QLoRA: the global batch stays 16 sequences, and the "
                                  "result is not that of LoRA")  # fmt: skip
    everything = story()
    plans(everything)
    assert MemoryRemedy.QLORA not in {each.remedy for each in there(everything.status.recovery).remedies}


def test_what_was_trained_on_the_whole_base_is_not_thrown_away() -> None:
    told = story(recovery={"onOutOfMemory": ["QLoRA"]})
    begun(told, step=30, checkpoint=checkpoint(20))
    told.see(starved(), after=5)
    assert told.phase() is Phase.FAILED
    message = there(told.status.failure).message
    assert "QLoRA was not taken, since the checkpoint of step 20 belongs to another base and would be lost" in message
    assert there(told.status.checkpoint).step == 20


def limited(told: Story, limit: str | None) -> Story:
    told.settings = Settings(limits=Limits(max_memory_per_gpu=limit))
    return told


@pytest.mark.parametrize(
    ("wanted", "limit", "given"), [("64Gi", "200Gi", "96Gi"), ("17Gi", "64Gi", "26Gi"), ("64Gi", "80Gi", "80Gi")]
)
def test_a_pod_that_was_killed_for_host_memory_gets_more_once(wanted: str, limit: str, given: str) -> None:
    told = limited(Story(resources={"memoryPerGpu": wanted}), limit)
    begun(told)
    assert told.see(killed(), after=5).actions == (StartAttempt(2),)
    record = told.status.attempts[0]
    assert (record.cause, record.decision, record.remedy) == ("HostOutOfMemory", "Remedy", "HostMemory")
    assert there(told.status.recovery).memory_per_gpu == given
    assert told.told[-1] == (
        f"attempt 1 ran out of the host's memory after step 10 with {wanted} of host memory per GPU; "
        f"attempt 2 runs with {given} of host memory per GPU"
    )
    told.see(attempt(number=2))
    told.see(killed(2), after=5)
    assert told.phase() is Phase.FAILED
    assert f"memoryPerGpu: {wanted} was raised to {given} before, in vain" in there(told.status.failure).message


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (None, "spec.resources.memoryPerGpu: 64Gi is not raised without the operator's limits.maxMemoryPerGpu"),
        ("64Gi", "spec.resources.memoryPerGpu: 64Gi is all that the operator's limits.maxMemoryPerGpu allows"),
    ],
)
def test_no_more_host_memory_is_given_than_the_admin_allows(limit: str | None, words: str) -> None:
    told = limited(Story(), limit)
    begun(told)
    assert told.see(killed(), after=5).actions == ()
    assert told.phase() is Phase.FAILED
    assert f"worker 0 hit its memory limit; {words}; raise it, or" in there(told.status.failure).message


def test_both_kinds_of_memory_are_remedied_side_by_side() -> None:
    told = limited(story(resources={"memoryPerGpu": "64Gi"}), "128Gi")
    begun(told)
    told.see(killed(), after=5)
    before = there(told.status.plan)
    told.see(attempt(number=2))
    told.see(starved(2), after=5)
    recovery = there(told.status.recovery)
    assert [each.remedy for each in recovery.remedies] == ["HostMemory", "MicroBatch"]
    assert (recovery.memory_per_gpu, there(told.status.plan).micro_batch, before.micro_batch) == ("96Gi", 4, 8)


def broken(number: int, *workers: Worker) -> Attempt:
    return attempt(*workers, number=number, is_failed=True)


def test_a_node_that_a_failure_points_at_is_avoided_and_told_of() -> None:
    told = Story(recovery={"maxRestarts": 9})
    begun(told)
    told.see(broken(1, worker(0, FAILED, exit_code=137, node="bad"), worker(1, FAILED, exit_code=75)), after=20)
    assert (told.status.attempts[0].suspect_node, told.status.attempts[0].node) == ("bad", "bad")
    assert told.told[-1].startswith("attempt 2 follows and keeps away from node bad, if there is room elsewhere; ")
    assert suspect_nodes(told.status) == ("bad",)


def test_only_the_newest_suspects_are_avoided_each_once() -> None:
    told = Story(recovery={"maxRestarts": 9})
    begun(told)
    for number, node in enumerate(("a", "b", "c", "b", "d"), 1):
        told.see(broken(number, worker(0, FAILED, exit_code=137, node=node)), after=20)
    assert suspect_nodes(told.status) == ("d", "b", "c")


@pytest.mark.parametrize(
    "last",
    [
        worker(0, FAILED, disruption="EvictionByEvictionAPI", exit_code=137),
        worker(0, FAILED, exit_code=143),
        worker(0, FAILED, exit_code=1),
        worker(0, FAILED, outcome=OUT_OF_MEMORY),
    ],
    ids=["drained", "terminated", "crash", "memory"],
)
def test_what_says_nothing_of_a_node_makes_none_suspect(last: Worker) -> None:
    told = story()
    begun(told)
    told.see(broken(1, last, worker(1, FAILED, exit_code=75)), after=5)
    assert told.status.attempts[0].decision is not None
    assert suspect_nodes(told.status) == ()


def test_a_hang_points_at_the_node_of_the_only_worker() -> None:
    told = Story(parallelism={"nodes": 1})
    told.see(attempt(worker(0, node="slow")))
    assert told.see(attempt(worker(0, node="slow")), after=FOR_EVER).actions == (StopAttempt(1, force=True),)
    assert suspect_nodes(told.status) == ("slow",)
    gang = Story()
    gang.see(attempt())
    gang.see(attempt(), after=FOR_EVER)
    assert (gang.status.attempts[0].cause, suspect_nodes(gang.status)) == ("Hang", ())


def test_what_is_settled_is_read_back_as_it_was_written() -> None:
    told = story()
    begun(told)
    told.see(starved(), after=5)
    recovery = there(told.status.recovery)
    assert RecoveryStatus.model_validate(told.status.to_body()["recovery"]) == recovery

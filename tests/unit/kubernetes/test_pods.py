"""What a pod's status means, in the words of the domain."""

import pytest

from finetune_contract import ExitCode
from finetune_operator.backends.kubernetes import pods
from finetune_operator.observation import WorkerState
from support import kube_objects as objects
from support import runs


def test_a_trainers_last_words_are_its_outcome() -> None:
    outcome = runs.preempted_outcome(7)
    container = objects.terminated(75, outcome.to_message())
    worker = pods.worker(objects.pod(phase="Failed", container=container))
    assert (worker.state, worker.exit_code, worker.outcome) == (WorkerState.FAILED, ExitCode.PREEMPTED, outcome)
    assert worker.message is None


@pytest.mark.parametrize("garbage", ["Killed", '{"exit_code": 0', '{"version": 1, "odd": 0}', "[]", "null"])
def test_last_words_that_are_no_outcome_stay_as_text(garbage: str) -> None:
    worker = pods.worker(objects.pod(phase="Failed", container=objects.terminated(137, garbage)))
    assert (worker.outcome, worker.message) == (None, garbage)


def test_last_words_of_another_contract_version_name_both_and_what_to_do() -> None:
    worker = pods.worker(objects.pod(phase="Failed", container=objects.terminated(64, '{"version": 2, "news": []}')))
    assert worker.outcome is None
    assert "speaks contract version 2, and this one version 1; operator and trainer" in str(worker.message)


def test_the_end_of_the_container_counts_before_the_phase_follows() -> None:
    assert pods.state(objects.pod(phase="Running", container=objects.terminated(0))) is WorkerState.SUCCEEDED
    assert pods.state(objects.pod(phase="Running", container=objects.terminated(1))) is WorkerState.FAILED


def test_a_pod_that_runs_but_whose_container_does_not_waits() -> None:
    container = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}}
    worker = pods.worker(objects.pod(phase="Pending", container=container))
    assert worker.state is WorkerState.WAITING
    assert (worker.waiting_reason, worker.waiting_message) == ("CreateContainerConfigError", 'secret "hub" not found')


def test_no_room_is_told_by_the_scheduler() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    unbound = objects.pod(conditions=(scheduled,)) | {"spec": {}}
    worker = pods.worker(unbound)
    assert (worker.waiting_reason, worker.waiting_message) == ("Unschedulable", "0/3 nodes")


def test_a_late_word_of_the_scheduler_does_not_hide_why_a_bound_pod_waits() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    container = {"waiting": {"reason": "ImagePullBackOff"}}
    assert pods.waiting(objects.pod(conditions=(scheduled,), container=container)) == ("ImagePullBackOff", None)


def test_a_pod_that_runs_waits_for_nothing() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pod = objects.pod(phase="Running", container={"running": {}}, conditions=(scheduled,))
    assert pods.waiting(pod) == (None, None)


def test_out_of_memory_and_eviction_have_kubernetes_own_words() -> None:
    killed = objects.pod(phase="Failed", container=objects.terminated(137, reason="OOMKilled"))
    evicted = objects.pod(phase="Failed", status={"reason": "Evicted", "message": "low on disk"})
    assert pods.worker(killed).reason == "OOMKilled"
    assert (pods.worker(evicted).reason, pods.worker(evicted).message) == ("Evicted", "low on disk")


def test_a_disruption_counts_while_it_is_true() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    assert pods.disruption(objects.pod(conditions=(target,))) == "PreemptionByScheduler"
    assert pods.disruption(objects.pod(conditions=(target | {"status": "False"},))) is None


def test_a_pod_that_was_told_to_go_is_still_there() -> None:
    worker = pods.worker(
        objects.pod(phase="Running", container={"running": {}}, deletionTimestamp="2026-01-01T00:00:09Z")
    )
    assert (worker.state, worker.is_terminating) == (WorkerState.RUNNING, True)


def test_a_pod_that_no_kubelet_has_seen_waits() -> None:
    worker = pods.worker({"metadata": objects.metadata("bare"), "spec": {}, "status": {}})
    assert (worker.state, worker.node, worker.waiting_reason) == (WorkerState.WAITING, None, None)

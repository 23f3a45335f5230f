"""A run in a queue, by the contract that Kueue has with Jobs: labels, and `spec.suspend`, which is Kueue's alone."""

from finetune_operator import names
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import JOBS, POD_GROUPS, PODS, RUNS
from support import runs, stories
from support.control import Control
from support.kueue import PlayedKueue
from support.operator_process import OperatorProcess
from support.rank0 import Rank0
from support.runs import there

QUEUED = {"gang": "Kueue", "queue": "research"}
POD_GROUP = POD_GROUPS["scheduling.x-k8s.io/v1alpha1"]


def test_a_run_waits_is_admitted_is_preempted_queues_again_and_resumes(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    kueue, rank0 = PlayedKueue(control, namespace), Rank0()
    name = stories.make_run(control, namespace, scheduling=QUEUED)
    stories.prepare(control, namespace, name)
    first = _job(control, namespace, name, attempt=1)
    assert first["spec"]["suspend"] is True
    assert first["metadata"]["labels"][names.KUEUE_QUEUE_LABEL] == "research"
    kueue.take_up(first, "insufficient unused quota for nvidia.com/gpu in flavor default, 2 more needed")
    control.wait("the reason", lambda: "2 more needed" in _running(control, namespace, name)["message"])
    status = control.status(namespace, name)
    assert (status["phase"], status["queue"]) == ("Queued", "research")
    assert _workers(control, namespace, name) == []
    kueue.admit(first)
    control.do(rank0.start())
    rank0.progress = runs.progress(1, 30, at=stories.now())
    pods = stories.start_workers(control, namespace, name, attempt=1, address=rank0.address)
    control.wait_phase(namespace, name, "Running")
    kueue.evict(first, "Preempted", "to accommodate a workload of higher priority")
    control.wait("SIGTERM", lambda: all(_is_terminating(control, namespace, pod) for pod in pods))
    control.wait("the loss of its place", lambda: control.status(namespace, name)["attempts"][0].get("endedAt"))
    assert control.get(JOBS, namespace, names.attempt_job(name, 2)) is None, "the first gang is still saving"
    control.do(control.kubelet.reap(namespace, runs.preempted_outcome(33)))
    second = _job(control, namespace, name, attempt=2)
    control.do(rank0.stop())
    assert second["spec"]["suspend"] is True, "it queues anew"
    status = control.status(namespace, name)
    [record, *_] = status["attempts"]
    assert (record["cause"], record["decision"], record["lastStep"]) == ("Disruption", "RetryUncounted", 33)
    assert "queue research has taken the run's place back (Preempted: to accommodate" in record["message"]
    assert (status["checkpoint"]["step"], status["failures"]) == (33, 0)
    control.wait(
        "nothing is left of the first", lambda: control.get(JOBS, namespace, names.attempt_job(name, 1)) is None
    )
    kueue.take_up(second, "waits for quota")
    kueue.admit(second)
    stories.start_workers(control, namespace, name, attempt=2)
    stories.end_workers(control, namespace, name, 2, runs.done_outcome())
    assert control.wait_phase(namespace, name, "Succeeded")["restarts"] == 1
    verbs = {each.verb for each in control.operator_writes() if each.namespace == namespace and each.resource == "jobs"}
    assert verbs == {"create", "delete"}, "what Kueue writes into a Job is never written over"


def test_a_queue_that_the_admin_does_not_offer_is_refused(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace, scheduling={"gang": "Kueue", "queue": "other"})
    status = control.wait_phase(namespace, name, "Failed")
    assert "scheduling.queue: 'other' is not allowed here; allowed: research" in str(status["conditions"])
    assert control.children(JOBS, namespace, name) == []


def test_a_pod_group_comes_and_goes_with_its_job(control: Control, operator: OperatorProcess, namespace: str) -> None:
    name = stories.make_run(control, namespace, scheduling={"gang": "Coscheduling"})
    stories.prepare(control, namespace, name)
    job, own_name = _job(control, namespace, name, attempt=1), names.attempt_job(name, 1)
    group = there(control.wait("its PodGroup", lambda: control.get(POD_GROUP, namespace, own_name)))
    assert group["spec"] == {"minMember": stories.NODES}
    assert [owner["uid"] for owner in group["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    [pod, *_] = stories.worker_pods(control, namespace, name, attempt=1)
    assert (pod["spec"]["schedulerName"], pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"]) == (
        "scheduler-plugins-scheduler",
        own_name,
    )
    control.patch(RUNS, namespace, name, {"spec": {"suspend": True}})
    control.do(control.kubelet.reap(namespace))
    control.wait_phase(namespace, name, "Suspended")
    control.wait("nothing is left of it", lambda: control.get(POD_GROUP, namespace, own_name) is None)


def _job(control: Control, namespace: str, name: str, attempt: int) -> Object:
    own_name = names.attempt_job(name, attempt)
    return there(control.wait(f"the Job {own_name}", lambda: control.get(JOBS, namespace, own_name)))


def _running(control: Control, namespace: str, name: str) -> Object:
    conditions = control.status(namespace, name).get("conditions", [])
    found: Object = next(each for each in conditions if each["type"] == "Running")
    return found


def _workers(control: Control, namespace: str, name: str) -> list[Object]:
    return [pod for pod in control.children(PODS, namespace, name) if names.ATTEMPT_LABEL in pod["metadata"]["labels"]]


def _is_terminating(control: Control, namespace: str, pod: Object) -> bool:
    live = control.get(PODS, namespace, pod["metadata"]["name"])
    return live is not None and "deletionTimestamp" in live["metadata"]

"""How attempts end and follow one another: failure, suspension, and what a person changes by hand."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from finetune_contract import ExitCode
from finetune_operator import names
from finetune_operator.backends.kubernetes.client import ApiError, Object
from finetune_operator.backends.kubernetes.kinds import CONFIG_MAPS, JOBS, PODS, RUNS, SERVICES
from harness import Write
from support import runs, stories
from support.control import Control
from support.operator_process import OperatorProcess
from support.rank0 import Rank0


def test_the_second_attempt_begins_when_every_pod_of_the_first_is_gone(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    first, second = stories.start_workers(control, namespace, name, attempt=1)
    broken = runs.failed_outcome(ExitCode.INFRASTRUCTURE, "NcclError", rank=1)
    control.do(control.kubelet.end(second, broken))
    control.wait("the failed gang is told to go", lambda: _is_terminating(control, namespace, first))
    control.wait("the end is recorded", lambda: control.status(namespace, name)["attempts"][0].get("endedAt"))
    assert control.get(JOBS, namespace, names.attempt_job(name, 2)) is None
    control.do(control.kubelet.reap(namespace))
    stories.start_workers(control, namespace, name, attempt=2)
    attempt = control.status(namespace, name)["attempts"][0]
    assert (attempt["cause"], attempt["rank"], attempt["decision"]) == ("Infrastructure", 1, "Retry")
    stories.end_workers(control, namespace, name, 2, runs.done_outcome())
    assert control.wait_phase(namespace, name, "Succeeded")["restarts"] == 1
    assert max(_created(control, namespace).values()) == 1


def test_a_suspended_run_saves_gives_its_gpus_back_and_goes_on_when_told(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    rank0 = Rank0()
    control.do(rank0.start())
    rank0.progress = runs.progress(1, 30, at=stories.now())
    stories.start_workers(control, namespace, name, attempt=1, address=rank0.address)
    control.wait_phase(namespace, name, "Running")
    control.patch(RUNS, namespace, name, {"spec": {"suspend": True}})
    pod = stories.worker_pod(control, namespace, name, attempt=1, index=0)
    control.wait("SIGTERM", lambda: _is_terminating(control, namespace, pod))
    control.do(control.kubelet.reap(namespace, runs.preempted_outcome(33)))
    status = control.wait_phase(namespace, name, "Suspended")
    control.do(rank0.stop())
    assert status["attempts"][0]["cause"] == "Suspended"
    assert status["attempts"][0]["lastStep"] == 33
    assert status["checkpoint"]["step"] == 33
    control.wait("no worker is left", lambda: control.get(JOBS, namespace, names.attempt_job(name, 1)) is None)
    control.patch(RUNS, namespace, name, {"spec": {"suspend": False}})
    stories.start_workers(control, namespace, name, attempt=2)
    stories.end_workers(control, namespace, name, 2, runs.done_outcome())
    assert control.wait_phase(namespace, name, "Succeeded")["failures"] == 0


def test_what_a_person_changes_by_hand_is_put_right(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    service = names.workers_service(name)
    wrong = {"spec": {"publishNotReadyAddresses": False, "selector": {"app": "mine"}}}
    control.patch(SERVICES, namespace, service, wrong)
    control.wait("the Service is as it was", lambda: _is_right(control, namespace, service))
    live = control.get(SERVICES, namespace, service)
    assert live is not None
    control.do(control.api.delete(SERVICES, live))
    control.wait("the Service is there again", lambda: _is_right(control, namespace, service))
    for config in control.children(CONFIG_MAPS, namespace, name):
        with pytest.raises(ApiError, match="immutable"):
            control.patch(CONFIG_MAPS, namespace, config["metadata"]["name"], {"data": {"run.json": "{}"}})


def test_a_pass_over_what_is_as_it_should_be_writes_nothing(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    stories.wait_running(control, namespace, name)
    control.wait("no write for a second", lambda: _is_quiet(control, namespace, 1.0))
    passes, since = _passes(operator), datetime.now(UTC)
    control.wait("more passes", lambda: _passes(operator) >= passes + 3)
    assert _writes(control, namespace, since) == []


def _is_terminating(control: Control, namespace: str, pod: Object) -> bool:
    live = control.get(PODS, namespace, pod["metadata"]["name"])
    return live is not None and "deletionTimestamp" in live["metadata"]


def _is_right(control: Control, namespace: str, service: str) -> bool:
    live = control.get(SERVICES, namespace, service)
    return bool(live and live["spec"].get("publishNotReadyAddresses") and names.RUN_LABEL in live["spec"]["selector"])


def _is_quiet(control: Control, namespace: str, seconds: float) -> bool:
    return (datetime.now(UTC) - _writes(control, namespace)[-1].at).total_seconds() > seconds


def _created(control: Control, namespace: str) -> Counter[str]:
    """How often each Job was made."""
    made = (each for each in _writes(control, namespace) if each.verb == "create" and each.code == 201)
    return Counter(each.name for each in made if each.resource == "jobs")


def _writes(control: Control, namespace: str, since: datetime | None = None) -> list[Write]:
    """What the operator wrote."""
    return [each for each in control.operator_writes(since) if each.namespace == namespace]


def _passes(operator: OperatorProcess) -> float:
    counts = operator.metrics()
    return sum(value for name, value in counts.items() if name.startswith("qwen3_finetune_pass_seconds_count"))

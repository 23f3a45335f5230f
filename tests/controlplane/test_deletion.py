"""A run that is deleted takes along what it owns, by Kubernetes' own garbage collector."""

from finetune_operator import names
from finetune_operator.backends.kubernetes.kinds import CHILDREN, CLAIMS, JOBS, RUNS
from support import runs, stories
from support.control import Control
from support.operator_process import OperatorProcess

SECONDS = 90
"""The garbage collector looks for new kinds every 30 s, and cannot see one deleted that it does not know."""


def test_a_deleted_run_leaves_its_output_and_nothing_else(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace, storage={"output": {"onDelete": "Retain"}})
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    _delete(control, namespace, name)
    control.wait("the children go", lambda: _left(control, namespace, name) == [names.output_claim(name)], SECONDS)


def test_a_deleted_run_takes_its_output_along_if_it_is_to(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    _delete(control, namespace, name)
    control.wait("the children go", lambda: _left(control, namespace, name) == [], SECONDS)


def test_a_run_of_the_same_name_waits_for_the_old_one_and_shares_nothing_with_it(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    pods = stories.start_workers(control, namespace, name, attempt=1)
    control.do(control.kubelet.exit(pods[0], 65, "not for the next run"))
    _delete(control, namespace, name)
    control.wait("the run is gone", lambda: control.get(RUNS, namespace, name) is None)
    stories.make_run(control, namespace)
    control.wait("the old children go", lambda: _old_are_gone(control, namespace, name), SECONDS)
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    stories.end_workers(control, namespace, name, 1, runs.done_outcome())
    status = control.wait_phase(namespace, name, "Succeeded")
    assert [attempt["cause"] for attempt in status["attempts"]] == ["Done"]


def test_a_finished_run_goes_when_its_time_is_over(control: Control, operator: OperatorProcess, namespace: str) -> None:
    name = stories.make_run(control, namespace, scheduling={"ttlSecondsAfterFinished": 1})
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    stories.end_workers(control, namespace, name, 1, runs.done_outcome())
    control.wait("the run and its children go", lambda: _is_gone(control, namespace, name), SECONDS)


def _delete(control: Control, namespace: str, name: str) -> None:
    run = control.get(RUNS, namespace, name)
    assert run is not None
    assert "finalizers" not in run["metadata"]
    control.do(control.api.delete(RUNS, run))


def _left(control: Control, namespace: str, name: str) -> list[str]:
    """What is left of a run's children; pods end as soon as they are told to."""
    control.do(control.kubelet.reap(namespace))
    return [item["metadata"]["name"] for kind in CHILDREN for item in control.children(kind, namespace, name)]


def _old_are_gone(control: Control, namespace: str, name: str) -> bool:
    control.do(control.kubelet.reap(namespace))
    run = control.get(RUNS, namespace, name)
    assert run is not None
    items = [item for kind in (JOBS, CLAIMS) for item in control.children(kind, namespace, name)]
    return {item["metadata"]["ownerReferences"][0]["uid"] for item in items} == {run["metadata"]["uid"]}


def _is_gone(control: Control, namespace: str, name: str) -> bool:
    return control.get(RUNS, namespace, name) is None and _left(control, namespace, name) == []

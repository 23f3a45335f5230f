"""A run from its resource to its result, with the operator as a process and its own rights."""

from finetune_operator.backends.kubernetes.client import Object
from support import runs, stories
from support.control import Control
from support.operator_process import OperatorProcess
from support.rank0 import Rank0


def test_a_run_goes_from_its_resource_to_its_result(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    rank0 = Rank0()
    control.do(rank0.start())
    rank0.progress = runs.progress(1, 40, at=stories.now(), checkpoint=runs.checkpoint(25))
    stories.start_workers(control, namespace, name, attempt=1, address=rank0.address)
    running = control.wait_phase(namespace, name, "Running")
    assert running["progress"]["step"] == 40
    assert running["checkpoint"]["step"] == 25
    stories.end_workers(control, namespace, name, 1, runs.done_outcome())
    status = control.wait_phase(namespace, name, "Succeeded")
    control.do(rank0.stop())
    assert status["artifacts"][0]["digest"] == "sha256:" + "a" * 64
    assert conditions(status)["Succeeded"] == ("True", "Completed")
    calls = [write for write in control.operator_writes() if write.namespace == namespace]
    assert len(calls) <= 21, [f"{each.verb} {each.resource}/{each.subresource} {each.name}" for each in calls]


def conditions(status: Object) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}

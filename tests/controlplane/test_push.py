"""A finished run's push on a real control plane: refused, mended, done once; and nobody else sees the token."""

from typing import Any

from finetune_contract import ExitCode
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import CONFIG_MAPS, JOBS, PODS, RUNS
from support import runs, stories
from support.control import NAMESPACES, Control
from support.operator_process import OperatorProcess

PUSH: dict[str, Any] = {"repository": "me/huanhuan", "tokenSecret": {"name": "the-secret", "key": "write"}}
REFUSED = runs.failed_push(ExitCode.USER_ERROR, "TokenRefused")


def trained(control: Control, namespace: str) -> str:
    """A run that has reached its last step, and has a push left."""
    name = stories.make_run(control, namespace, output={"push": PUSH})
    stories.prepare(control, namespace, name)
    stories.start_workers(control, namespace, name, attempt=1)
    stories.wait_running(control, namespace, name)
    stories.end_workers(control, namespace, name, 1, runs.done_outcome())
    return name


def test_a_refused_push_keeps_what_was_made_and_is_repeated_alone_once_the_spec_is_mended(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    control.patch(NAMESPACES, "", namespace, restricted)
    name = trained(control, namespace)
    pod = stories.push_pod(control, namespace, name, 1)
    control.do(control.kubelet.hold_back(pod, "CreateContainerConfigError", 'secret "the-secret" not found'))
    control.wait(
        "the missing Secret is told", lambda: pushed(control, namespace, name) == ("Unknown", "SecretNotFound")
    )
    assert control.status(namespace, name)["phase"] == "Pushing"
    stories.push(control, namespace, name, 1, REFUSED)
    status = control.wait_phase(namespace, name, "Failed")
    assert pushed(control, namespace, name) == ("False", "TokenRefused")
    assert status["artifacts"][0]["path"] == "/output/huanhuan/adapter"
    better = {"tokenSecret": {"name": "the-secret", "key": "better"}}
    control.patch(RUNS, namespace, name, {"spec": {"output": {"push": better}}})
    stories.push(control, namespace, name, 2, runs.pushed_outcome())
    status = control.wait_phase(namespace, name, "Succeeded")
    assert pushed(control, namespace, name) == ("True", "Pushed")
    assert status["artifacts"][0]["pushed"]["commit"] == "c" * 40
    assert len(status["attempts"]) == 1
    control.patch(RUNS, namespace, name, {"spec": {"scheduling": {"ttlSecondsAfterFinished": 9000}}})
    generation = control.patch(RUNS, namespace, name, {"spec": {"suspend": True}})["metadata"]["generation"]
    control.wait("it is looked at", lambda: control.status(namespace, name)["observedGeneration"] == generation)
    jobs = [job["metadata"]["name"] for job in control.children(JOBS, namespace, name)]
    assert jobs == ["huanhuan-prepare", "huanhuan-push-2", "huanhuan-r1"]


def test_only_the_pod_that_pushes_is_given_the_token(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = trained(control, namespace)
    stories.push_pod(control, namespace, name, 1)
    holders = [pod for pod in control.children(PODS, namespace, name) if "the-secret" in str(pod["spec"])]
    assert [pod["metadata"]["labels"]["finetune.qwen3.io/role"] for pod in holders] == ["push"]
    assert "the-secret" not in str(control.children(CONFIG_MAPS, namespace, name))
    assert "the-secret" not in str(control.status(namespace, name))


def test_a_push_that_is_suspended_goes_and_begins_again(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = trained(control, namespace)
    control.do(control.kubelet.run(stories.push_pod(control, namespace, name, 1)))
    control.patch(RUNS, namespace, name, {"spec": {"suspend": True}})
    control.wait("the pod is told to go", lambda: is_leaving(control, namespace))
    control.do(control.kubelet.reap(namespace))
    control.wait_phase(namespace, name, "Suspended")
    control.patch(RUNS, namespace, name, {"spec": {"suspend": False}})
    stories.push(control, namespace, name, 2, runs.pushed_outcome())
    assert control.wait_phase(namespace, name, "Succeeded")["push"]["failures"] == 0


def is_leaving(control: Control, namespace: str) -> bool:
    """Whether a pod of a push is on its way out."""
    pods = control.do(control.kubelet.pods(namespace, "finetune.qwen3.io/role=push"))
    return any("deletionTimestamp" in pod["metadata"] for pod in pods)


def pushed(control: Control, namespace: str, name: str) -> tuple[str, str]:
    """Status and reason of the condition."""
    conditions: list[Object] = control.status(namespace, name).get("conditions", [])
    return next(((each["status"], each["reason"]) for each in conditions if each["type"] == "Pushed"), ("", ""))

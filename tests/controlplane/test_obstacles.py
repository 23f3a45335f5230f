"""What keeps a run from starting: each is named in its conditions within seconds, and takes no GPU for nothing."""

from finetune_contract import ExitCode, Failure, PrepareOutcome
from finetune_operator import names
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import EVENTS, JOBS, PODS, RUNS, Kind
from support import stories
from support.control import Control
from support.operator_process import OperatorProcess

SECONDS = 10
"""Within which a person is to be told."""

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")


def test_a_missing_secret_is_named_with_its_field_and_its_remedy(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    secret = {"id": "Qwen/Qwen3-8B", "tokenSecret": {"name": "hub", "key": "token"}}
    name = stories.make_run(control, namespace, model=secret)
    pod = stories.preparation_pod(control, namespace, name)
    control.do(control.kubelet.hold_back(pod, "CreateContainerConfigError", 'secret "hub" not found'))
    message = _wait_reason(control, namespace, name, "Prepared", "SecretNotFound")
    assert "spec.model.tokenSecret" in message
    assert "kubectl create secret generic hub" in message


def test_an_image_that_cannot_be_pulled_is_told(control: Control, operator: OperatorProcess, namespace: str) -> None:
    name = stories.make_run(control, namespace)
    pod = stories.preparation_pod(control, namespace, name)
    control.do(control.kubelet.hold_back(pod, "ImagePullBackOff", 'Back-off pulling image "qwen3-finetune-trainer"'))
    assert "qwen3-finetune-trainer" in _wait_reason(control, namespace, name, "Prepared", "ImagePullBackOff")


def test_a_volume_that_does_not_come_is_told(control: Control, operator: OperatorProcess, namespace: str) -> None:
    name = stories.make_run(control, namespace, storage={"cache": {"storageClass": "no-such-class"}})
    assert f"{name}-cache" in _wait_reason(control, namespace, name, "Prepared", "VolumePending")


def test_a_claim_that_does_not_exist_is_told(control: Control, operator: OperatorProcess, namespace: str) -> None:
    name = stories.make_run(control, namespace, storage={"cache": {"claimName": "typo"}})
    assert "spec.storage.cache.claimName" in _wait_reason(control, namespace, name, "Prepared", "ClaimNotFound")


def test_an_exceeded_quota_is_told(control: Control, operator: OperatorProcess, namespace: str) -> None:
    spec = {"hard": {"requests.nvidia.com/gpu": "1"}}
    control.make(QUOTAS, namespace, {"metadata": {"name": "gpus"}, "spec": spec})
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    [admitted] = stories.worker_pods(control, namespace, name, attempt=1, nodes=1)
    control.do(control.kubelet.run(admitted))
    assert "exceeded quota" in _wait_reason(control, namespace, name, "Running", "QuotaExceeded")


def test_a_quota_that_forbids_even_the_preparation_is_told(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    control.make(QUOTAS, namespace, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    name = stories.make_run(control, namespace)
    assert "exceeded quota" in _wait_reason(control, namespace, name, "Prepared", "QuotaExceeded")


def test_bad_data_is_refused_before_a_gpu_is_asked_for(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    failure = Failure(
        exit_code=ExitCode.USER_ERROR,
        reason="BadRows",
        message="spec.dataset.path: 2 of 3,729 rows cannot be used",
        details=("line 17: no instruction",),
    )
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name, PrepareOutcome(exit_code=ExitCode.USER_ERROR, failure=failure))
    control.wait_phase(namespace, name, "Failed", SECONDS)
    assert "2 of 3,729 rows" in _condition(control, namespace, name, "Succeeded")["message"]
    assert control.get(JOBS, namespace, names.attempt_job(name, 1)) is None
    assert len(control.children(PODS, namespace, name)) <= 1


def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace, model={"id": "Qwen/Qwen3-32B"}, resources={"gpuMemory": "16Gi"})
    control.wait_phase(namespace, name, "Failed", SECONDS)
    assert control.children(JOBS, namespace, name) == []


def test_what_happens_to_a_run_is_told_in_events_once(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace, model={"id": "Qwen/Qwen3-32B"}, resources={"gpuMemory": "16Gi"})
    control.wait_phase(namespace, name, "Failed", SECONDS)
    run = control.get(RUNS, namespace, name)
    assert run is not None
    fields = f"involvedObject.uid={run['metadata']['uid']}"
    events, _ = control.do(control.api.list_all(EVENTS, namespace, fields=fields))
    assert {(event["type"], event["count"]) for event in events} == {("Warning", 1)}


def _wait_reason(control: Control, namespace: str, name: str, kind: str, reason: str) -> str:
    """The message of a condition, once it has that reason."""

    def told() -> str:
        condition = _condition(control, namespace, name, kind)
        return condition["message"] if condition.get("reason") == reason else ""

    try:
        return control.wait(f"{kind} says {reason}", told, SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}, but {_condition(control, namespace, name, kind)}") from None


def _condition(control: Control, namespace: str, name: str, kind: str) -> Object:
    conditions = control.status(namespace, name).get("conditions", [])
    found: Object = next((each for each in conditions if each["type"] == kind), {})
    return found

"""Pure: a pod, as the API server describes it, in the words of `observation`."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_contract import Outcome, PrepareOutcome, PushOutcome, mismatch
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.names import ATTEMPT_LABEL, RUN_UID_ANNOTATION
from finetune_operator.observation import Worker, WorkerState

BEING_SET_UP = "ContainerCreating"
"""The kubelet's word for a container whose pod gets its volumes and network, or its image, all the while."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def worker(pod: Object) -> Worker:
    """One pod of an attempt. A termination message that is no Outcome is kept as text."""
    end = _terminated(pod)
    text = end.get("message") or None
    outcome = parsed_outcome(Outcome, text)
    waiting_reason, waiting_message = waiting(pod)
    return Worker(
        index=node_rank(pod),
        name=pod["metadata"]["name"],
        state=state(pod),
        is_terminating=is_terminating(pod),
        node=pod.get("spec", {}).get("nodeName"),
        waiting_reason=waiting_reason,
        waiting_message=waiting_message,
        exit_code=end.get("exitCode"),
        reason=end_reason(pod),
        message=_end_message(pod, None if outcome else text),
        disruption=disruption(pod),
        outcome=outcome,
    )


def parsed_outcome(model: type[Outcome | PrepareOutcome | PushOutcome], text: str | None) -> Any:
    """What the trainer wrote when it ended, or None: it may have been cut short, or be of another version."""
    if not text:
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError:
        return None


def state(pod: Object) -> WorkerState:
    """Where the pod is. Its container's end counts at once: the phase follows a moment later."""
    phase, container = pod.get("status", {}).get("phase"), _container_state(pod)
    if phase == "Succeeded":
        return WorkerState.SUCCEEDED
    if phase == "Failed":
        return WorkerState.FAILED
    if "terminated" in container:
        return WorkerState.FAILED if container["terminated"].get("exitCode") else WorkerState.SUCCEEDED
    return WorkerState.RUNNING if "running" in container else WorkerState.WAITING


def waiting(pod: Object) -> tuple[str | None, str | None]:
    """Why the pod does not run yet, as reason and message."""
    if state(pod) is not WorkerState.WAITING:
        return None, None
    scheduled = _condition(pod, "PodScheduled")
    # a pod that is bound has a node, whatever a late word of the scheduler says
    if scheduled.get("status") == "False" and not pod.get("spec", {}).get("nodeName"):
        return scheduled.get("reason"), scheduled.get("message")
    status = pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if said := container.get("state", {}).get("waiting"):
            return said.get("reason"), said.get("message")
    return None, None


def end_reason(pod: Object) -> str | None:
    """Kubernetes' word for the pod's end; an eviction says more than the exit code it led to."""
    return pod.get("status", {}).get("reason") or _terminated(pod).get("reason")


def disruption(pod: Object) -> str | None:
    """Who took the pod away, if Kubernetes did."""
    condition = _condition(pod, "DisruptionTarget")
    return condition.get("reason", "Unknown") if condition.get("status") == "True" else None


def exit_code(pod: Object) -> int | None:
    """Of its container, if that has ended."""
    code: int | None = _terminated(pod).get("exitCode")
    return code


def termination_text(pod: Object) -> str | None:
    """What the container left as its last words."""
    return _terminated(pod).get("message") or None


def end_message(pod: Object) -> str | None:
    """What can be said of the pod's end when it left no outcome."""
    return _end_message(pod, termination_text(pod))


def is_terminating(pod: Object) -> bool:
    """Asked to go, and still there."""
    return "deletionTimestamp" in pod["metadata"]


def node_rank(pod: Object) -> int:
    """The pod's completion index; 0 for a pod without one."""
    metadata = pod["metadata"]
    return int(metadata.get("labels", {}).get(INDEX_LABEL) or metadata.get("annotations", {}).get(INDEX_LABEL) or 0)


def attempt_number(item: Object) -> int | None:
    """The attempt that a Job or pod belongs to; None: it belongs to none."""
    label = item["metadata"].get("labels", {}).get(ATTEMPT_LABEL, "")
    return int(label) if label.isdigit() else None


def run_uid(pod: Object) -> str | None:
    """Which run of that name the pod is of."""
    uid: str | None = pod["metadata"].get("annotations", {}).get(RUN_UID_ANNOTATION)
    return uid


def created_at(item: Object) -> float:
    """Unix seconds."""
    return datetime.fromisoformat(item["metadata"]["creationTimestamp"]).timestamp()


def _end_message(pod: Object, text: str | None) -> str | None:
    return (text and mismatch(text)) or text or pod.get("status", {}).get("message")


def _container_state(pod: Object) -> Object:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    found: Object = statuses[0].get("state", {})
    return found


def _terminated(pod: Object) -> Object:
    end: Object = _container_state(pod).get("terminated", {})
    return end


def _condition(item: Object, kind: str) -> Object:
    for condition in item.get("status", {}).get("conditions", ()):
        if condition["type"] == kind:
            found: Object = condition
            return found
    return {}

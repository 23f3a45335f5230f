"""Objects as the API server gives them, small."""

import itertools
from typing import Any

from finetune_operator import names
from finetune_operator.backends.kubernetes.client import Object

_versions = itertools.count(100)


def metadata(name: str, *, uid: str | None = None, version: int | None = None, **fields: Any) -> Object:
    """Of an object of the run `huanhuan` in namespace `team`."""
    return {
        "name": name,
        "namespace": "team",
        "uid": uid or f"uid-of-{name}",
        "resourceVersion": str(version or next(_versions)),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": names.run_labels("huanhuan"),
    } | fields


def pod(
    name: str = "huanhuan-r1-0-abcde",
    *,
    attempt: int | None = 1,
    index: int = 0,
    phase: str = "Pending",
    container: Object | None = None,
    conditions: tuple[Object, ...] = (),
    status: Object | None = None,
    **meta: Any,
) -> Object:
    """A worker's pod, or with attempt None the preparation's; `container` is its container's state."""
    role = names.WORKER_ROLE if attempt else names.PREPARE_ROLE
    labels = names.run_labels("huanhuan", role, attempt)
    labels["batch.kubernetes.io/job-completion-index"] = str(index)
    owner = f"uid-of-huanhuan-r{attempt}" if attempt else "uid-of-huanhuan-prepare"
    return {
        "metadata": metadata(name, labels=labels, ownerReferences=[{"uid": owner}], **meta),
        "spec": {"nodeName": "node-a"},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [{"name": "trainer", "state": container}] if container else [],
        }
        | (status or {}),
    }


def terminated(code: int, message: str = "", reason: str = "Error") -> Object:
    """State of a container that has ended."""
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def push_job(number: int = 1, **fields: Any) -> Object:
    """The Job of a push."""
    labels = names.run_labels("huanhuan", names.PUSH_ROLE, push=number)
    told = {names.PUSH_TARGET_ANNOTATION: f"target {number}", names.PUSH_REQUEST_ANNOTATION: f"request-{number}"}
    meta = {"labels": labels, "annotations": told, "ownerReferences": [{"uid": "run-uid"}]} | fields.pop("meta", {})
    return {
        "metadata": metadata(names.push_job("huanhuan", number), **meta),
        "spec": {"completions": 1, "parallelism": 1},
        "status": {"conditions": []},
    } | fields


def push_pod(number: int = 1, **fields: Any) -> Object:
    """The pod of a push."""
    made = pod(f"huanhuan-push-{number}-abcde", attempt=None, **fields)
    made["metadata"]["labels"] = names.run_labels("huanhuan", names.PUSH_ROLE, push=number)
    return made


def job(attempt: int | None = 1, *, nodes: int = 1, spec: Object | None = None, **fields: Any) -> Object:
    """The Job of an attempt, or with attempt None of the preparation."""
    name = names.attempt_job("huanhuan", attempt) if attempt else names.prepare_job("huanhuan")
    role = names.WORKER_ROLE if attempt else names.PREPARE_ROLE
    labels = names.run_labels("huanhuan", role, attempt)
    return {
        "metadata": metadata(name, labels=labels, ownerReferences=[{"uid": "run-uid"}], **fields.pop("meta", {})),
        "spec": {"completions": nodes, "parallelism": nodes} | (spec or {}),
        "status": {"conditions": []},
    } | fields

"""Plays Kueue on Jobs, as its Job controller does: it keeps a Workload for each, lets it go and takes it back.

What a Workload and a PodGroup are is told to the API server by definitions that take any content: the real ones come
with Kueue and with the schedulers, and are of no concern to the operator.
"""

from typing import Any

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import JOBS, POD_GROUPS, WORKLOADS, Kind
from finetune_operator.names import KUEUE_JOB_UID_LABEL
from support.control import Control

WORKLOAD = WORKLOADS[0]
STOPPING = "kueue.x-k8s.io/stopping"


def definitions() -> list[dict[str, Any]]:
    """CustomResourceDefinitions of what the operator reads or makes for queues and gangs."""
    return [_definition(kind) for kind in (WORKLOAD, *POD_GROUPS.values())]


class PlayedKueue:
    """One namespace's worth of Kueue, driven by the test."""

    def __init__(self, control: Control, namespace: str) -> None:
        self._control = control
        self._namespace = namespace

    def take_up(self, job: Object, message: str) -> None:
        """The Job gets its Workload, for which there is no quota yet."""
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        metadata = {
            "name": self._name(job),
            "labels": {KUEUE_JOB_UID_LABEL: job["metadata"]["uid"]},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        }
        self._control.make(WORKLOAD, self._namespace, {"metadata": metadata, "spec": {"queueName": "research"}})
        self._say(job, "QuotaReserved", "False", "Pending", message)

    def admit(self, job: Object) -> None:
        """There is quota for it: its pods may be made."""
        self._say(job, "QuotaReserved", "True", "QuotaReserved", "")
        self._suspend(job, is_suspended=False)

    def evict(self, job: Object, reason: str, message: str) -> None:
        """Its quota goes to another."""
        self._say(job, "Evicted", "True", reason, message)
        self._suspend(job, is_suspended=True, annotations={STOPPING: "true"})
        path = JOBS.path(self._namespace, job["metadata"]["name"], "status")
        self._control.do(self._control.api.patch(JOBS, {"status": {"startTime": None}}, path))
        self._suspend(job, is_suspended=True, annotations={STOPPING: None})

    def _suspend(self, job: Object, *, is_suspended: bool, annotations: dict[str, str | None] | None = None) -> None:
        change = {"metadata": {"annotations": annotations or {}}, "spec": {"suspend": is_suspended}}
        self._control.patch(JOBS, self._namespace, job["metadata"]["name"], change)

    def _say(self, job: Object, kind: str, status: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        path = WORKLOAD.path(self._namespace, self._name(job))
        change = {"status": {"conditions": [condition]}}
        self._control.do(self._control.api.patch(WORKLOAD, change, path))

    def _name(self, job: Object) -> str:
        return f"job-{job['metadata']['name']}"


def _definition(kind: Kind) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": kind.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    names = {"plural": kind.plural, "kind": kind.name, "listKind": f"{kind.name}List", "singular": kind.name.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{kind.group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }

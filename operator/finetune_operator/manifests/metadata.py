"""Names, labels and the owner of every object, and the one way to put them together."""

from collections.abc import Mapping
from typing import Any

from finetune_operator.names import RUN_UID_ANNOTATION, run_labels
from finetune_operator.resource import Qwen3FineTune

Manifest = dict[str, Any]
"""A Kubernetes object as plain data, fresh with every call."""


def object_metadata(
    run: Qwen3FineTune,
    name: str,
    *,
    role: str | None = None,
    attempt: int | None = None,
    push: int | None = None,
    owned: bool = True,
) -> Manifest:
    """Metadata of an object of `run`; an owned one is deleted with the run, another outlives it."""
    metadata: Manifest = {
        "name": name,
        "namespace": run.metadata.namespace,
        "labels": run_labels(run.metadata.name, role, attempt, push),
    }
    if owned:
        metadata["ownerReferences"] = [owner_reference(run)]
    return metadata


def pod_metadata(
    run: Qwen3FineTune,
    role: str,
    attempt: int | None = None,
    push: int | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Metadata of a Job's pods. They say which run they are of, since a run of the same name may be made anew.

    What others read on them is added, and takes nothing of ours away.
    """
    return {
        "labels": {**(labels or {}), **run_labels(run.metadata.name, role, attempt, push)},
        "annotations": {**(annotations or {}), RUN_UID_ANNOTATION: run.metadata.uid},
    }


def owner_reference(run: Qwen3FineTune) -> Manifest:
    """Makes the garbage collector delete an object with `run`; the run waits for it in a foreground deletion."""
    return {
        "apiVersion": run.api_version,
        "kind": run.kind,
        "name": run.metadata.name,
        "uid": run.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def without_empty(fields: Mapping[str, Any]) -> Manifest:
    """`fields` but for those that are None or empty: what nobody asked for is not written."""
    return {name: value for name, value in fields.items() if value is not None and value != {} and value != []}

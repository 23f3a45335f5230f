"""Whether an apply would change anything, read from the live object alone."""

from typing import Any

import pytest

from finetune_operator.backends.kubernetes.apply import APPLIED, is_applied, stamped
from finetune_operator.names import MANAGER

MANIFEST: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "s",
        "namespace": "team",
        "labels": {"app.kubernetes.io/name": "qwen3-finetune"},
        "ownerReferences": [{"uid": "run-uid", "name": "huanhuan"}],
    },
    "spec": {"clusterIP": "None", "selector": {"run": "a"}, "ports": [{"port": 29500, "protocol": "TCP"}]},
}

OWNED: dict[str, Any] = {
    "f:metadata": {
        "f:annotations": {f"f:{APPLIED}": {}},
        "f:labels": {"f:app.kubernetes.io/name": {}},
        "f:ownerReferences": {'k:{"uid":"run-uid"}': {}},
    },
    "f:spec": {
        "f:clusterIP": {},
        "f:selector": {},
        "f:ports": {'k:{"port":29500,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:protocol": {}}},
    },
}


def test_what_was_applied_need_not_be_applied_again() -> None:
    assert is_applied(_live(OWNED), stamped(MANIFEST))


def test_stamping_leaves_the_manifest_alone_and_says_the_same_each_time() -> None:
    before = str(MANIFEST)
    assert stamped(MANIFEST) == stamped(MANIFEST)
    assert str(MANIFEST) == before


def test_another_manifest_has_to_be_applied() -> None:
    assert not is_applied(_live(OWNED), stamped(MANIFEST | {"spec": MANIFEST["spec"] | {"clusterIP": "10.0.0.1"}}))
    assert not is_applied(_live(OWNED), stamped(MANIFEST | {"spec": {"clusterIP": "None"}}))


@pytest.mark.parametrize("taken", ["f:clusterIP", "f:selector", "f:ports"])
def test_a_field_that_somebody_took_over_has_to_be_taken_back(taken: str) -> None:
    spec = {name: fields for name, fields in OWNED["f:spec"].items() if name != taken}
    assert not is_applied(_live(OWNED | {"f:spec": spec}), stamped(MANIFEST))


def test_a_field_inside_a_list_that_somebody_took_over_is_noticed() -> None:
    ports: dict[str, Any] = {'k:{"port":29500,"protocol":"TCP"}': {".": {}, "f:port": {}}}
    assert not is_applied(_live(OWNED | {"f:spec": OWNED["f:spec"] | {"f:ports": ports}}), stamped(MANIFEST))


def test_what_only_others_have_written_is_not_ours() -> None:
    live = _live(OWNED)
    live["metadata"]["managedFields"][0]["manager"] = "kubectl"
    assert not is_applied(live, stamped(MANIFEST))


def _live(owned: dict[str, Any]) -> dict[str, Any]:
    live = stamped(MANIFEST)
    entry = {"manager": MANAGER, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": owned}
    live["metadata"]["managedFields"] = [entry]
    return live

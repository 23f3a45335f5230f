"""What is kept of an object in memory: what the operator reads, and little else."""

import json

from finetune_operator.backends.kubernetes import observe, pods
from finetune_operator.backends.kubernetes.apply import is_applied, stamped
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import CONFIG_MAPS, JOBS, PODS, SERVICES
from finetune_operator.backends.kubernetes.slim import slim
from finetune_operator.names import MANAGER
from support import kube_objects as objects


def test_a_pod_says_the_same_of_itself_without_its_containers() -> None:
    whole = objects.pod(phase="Failed", container=objects.terminated(75, "saved"))
    whole["spec"] |= {"containers": [{"name": "trainer", "env": []}], "volumes": [{"name": "cache"}]}
    whole["status"]["containerStatuses"][0] |= {"volumeMounts": [{"name": "cache"}], "imageID": "sha256:1"}
    kept = slim(PODS, whole)
    assert pods.worker(kept) == pods.worker(whole)
    assert kept["spec"] == {"nodeName": "node-a"}
    assert set(kept["status"]["containerStatuses"][0]) == {"name", "state"}
    assert whole["spec"]["containers"], "what was given stays as it was"


def test_a_job_says_the_same_of_itself_without_its_template() -> None:
    whole = objects.job(nodes=3, spec={"template": {"spec": {}}, "suspend": True})
    kept = slim(JOBS, whole)
    assert observe.attempts([kept], [], {}, {}) == observe.attempts([whole], [], {}, {})
    assert "template" not in kept["spec"]


def test_what_was_applied_is_known_from_what_is_kept() -> None:
    manifest = {"metadata": {"name": "s", "namespace": "team", "labels": {"a": "b"}}, "data": {"file": "x" * 5000}}
    applied = stamped(manifest)
    owned = {
        "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {f"f:{next(iter(_annotations(applied)))}": {}}},
        "f:data": {"f:file": {}},
    }
    for kind in (SERVICES, CONFIG_MAPS):
        kept = slim(kind, _live(applied, owned))
        assert is_applied(kept, applied)
        assert len(json.dumps(kept)) < 1000
        assert not is_applied(slim(kind, _live(applied, {**owned, "f:data": {"f:other": {}}})), applied)


def test_what_others_own_is_not_kept() -> None:
    other = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {}}}
    live = _live(stamped({"metadata": {"name": "s", "namespace": "team"}}), {})
    live["metadata"]["managedFields"].append(other)
    assert [entry["manager"] for entry in slim(SERVICES, live)["metadata"]["managedFields"]] == [MANAGER]


def _annotations(item: Object) -> Object:
    found: Object = item["metadata"]["annotations"]
    return found


def _live(applied: Object, owned: Object) -> Object:
    entry = {"manager": MANAGER, "operation": "Apply", "fieldsV1": owned}
    return {**applied, "metadata": {**applied["metadata"], "managedFields": [entry]}}

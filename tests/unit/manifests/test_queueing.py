"""What queues, gang schedulers and fabrics read and get, and what they leave alone."""

from typing import Any

import pytest

from finetune_operator.settings import Coscheduling, Fabric, Gangs, Kueue, Settings, Volcano
from unit.manifests.objects import JOB_UID, Made, container_of, environment_of, made, pod_of
from unit.planning.runs import run

NODES = {"nodes": 4, "gpusPerNode": 4}
RACK = {"key": "example.com/rack", "mode": "Required"}
INFINIBAND = Fabric(
    resources={"rdma/hca_shared_devices_a": "1"},
    environment={"NCCL_IB_HCA": "mlx5", "PET_NNODES": "9"},
    annotations={"k8s.v1.cni.cncf.io/networks": "ib0", "finetune.qwen3.io/run-uid": "stolen"},
    host_network=True,
    ipc_lock=True,
)


def gang(settings: Settings | None = None, **scheduling: Any) -> Made:
    return made(run("huanhuan", parallelism=NODES, scheduling=scheduling), settings, attempt=2)


def job_of(everything: Made) -> dict[str, Any]:
    return everything.attempt[-1]


def template_of(everything: Made) -> dict[str, Any]:
    template: dict[str, Any] = job_of(everything)["spec"]["template"]
    return template


def test_kueue_gets_a_suspended_job_with_its_labels_and_nothing_else_is_queued() -> None:
    everything = gang(gang="Kueue", queue="research", queuePriorityClass="high", priorityClass="pods-high")
    labels, plain = job_of(everything)["metadata"]["labels"], job_of(gang())["metadata"]["labels"]
    assert labels == plain | {
        "kueue.x-k8s.io/queue-name": "research",
        "kueue.x-k8s.io/priority-class": "high",
    }
    assert job_of(everything)["spec"]["suspend"] is True, "without Kueue's webhook it must not run past the quota"
    assert template_of(everything) == template_of(gang(priorityClass="pods-high")), "the template is none of Kueue's"
    assert everything.pod_group == []
    for other in [*everything.preparation, *everything.attempt[:-1]]:
        assert "kueue" not in str(other)
        assert "suspend" not in other.get("spec", {})


def test_volcano_gets_a_pod_group_of_all_workers_that_goes_with_the_job() -> None:
    everything = gang(gang="Volcano", queue="research", priorityClass="high")
    [group] = everything.pod_group
    assert (group["apiVersion"], group["kind"]) == ("scheduling.volcano.sh/v1beta1", "PodGroup")
    assert group["spec"] == {"minMember": 4, "queue": "research", "priorityClassName": "high"}
    job = job_of(everything)["metadata"]["name"]
    assert group["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": JOB_UID}
    ]
    assert template_of(everything)["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == job
    assert group["metadata"]["name"] == job == "huanhuan-r2"
    assert everything.worker_pod["schedulerName"] == "volcano"
    assert "schedulerName" not in everything.prepare_pod
    assert "suspend" not in job_of(everything)["spec"]


def test_coscheduling_gets_a_pod_group_by_label_and_the_admins_scheduler() -> None:
    settings = Settings(gangs=Gangs(coscheduling=Coscheduling(enabled=True, scheduler_name="second")))
    everything = gang(settings, gang="Coscheduling")
    [group] = everything.pod_group
    assert (group["apiVersion"], group["spec"]) == ("scheduling.x-k8s.io/v1alpha1", {"minMember": 4})
    labels = template_of(everything)["metadata"]["labels"]
    assert labels["scheduling.x-k8s.io/pod-group"] == group["metadata"]["name"]
    assert everything.worker_pod["schedulerName"] == "second"
    renamed = Settings(gangs=Gangs(volcano=Volcano(enabled=True, scheduler_name="third")))
    assert gang(renamed, gang="Volcano").worker_pod["schedulerName"] == "third"


@pytest.mark.parametrize("topology_aware", [True, False])
def test_workers_of_one_attempt_are_drawn_together_by_whoever_places_them(topology_aware: bool) -> None:
    settings = Settings(gangs=Gangs(kueue=Kueue(enabled=True, topology_aware=topology_aware)))
    everything = gang(settings, gang="Kueue", queue="research", topology=RACK)
    annotation = template_of(everything)["metadata"]["annotations"].get("kueue.x-k8s.io/podset-required-topology")
    assert (annotation == "example.com/rack") is topology_aware
    assert ("affinity" in everything.worker_pod) is not topology_aware
    assert "affinity" not in everything.prepare_pod
    preferred = gang(settings, gang="Kueue", queue="research", topology=RACK | {"mode": "Preferred"})
    assert ("podset-preferred-topology" in str(template_of(preferred)["metadata"])) is topology_aware


def test_a_hint_is_an_affinity_to_the_workers_of_the_same_attempt() -> None:
    required = gang(topology=RACK).worker_pod["affinity"]["podAffinity"]
    [term] = required["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = template_of(gang())["metadata"]["labels"]
    wanted = term["labelSelector"]["matchLabels"]
    assert wanted.items() <= labels.items(), "else the first worker would wait for itself for ever"
    assert wanted["finetune.qwen3.io/attempt"] == "2"
    assert term["topologyKey"] == "example.com/rack"
    preferred = gang(topology=RACK | {"mode": "Preferred"}).worker_pod["affinity"]["podAffinity"]
    [weighted] = preferred["preferredDuringSchedulingIgnoredDuringExecution"]
    assert weighted["podAffinityTerm"] == term


def test_a_fabric_is_the_workers_alone_and_changes_nothing_that_must_stay() -> None:
    settings = Settings(fabrics={"infiniband": INFINIBAND})
    everything = made(run(parallelism=NODES | {"fabric": "infiniband"}), settings)
    plain = made(run(parallelism=NODES), settings)
    pod, environment = everything.worker_pod, environment_of(everything.worker_pod)
    limits = container_of(pod)["resources"]["limits"]
    assert limits == container_of(plain.worker_pod)["resources"]["limits"] | {"rdma/hca_shared_devices_a": "1"}
    assert (environment["NCCL_IB_HCA"], environment["PET_NNODES"]) == ("mlx5", "4")
    annotations, before = (template_of(each)["metadata"]["annotations"] for each in (everything, plain))
    assert annotations == before | {"k8s.v1.cni.cncf.io/networks": "ib0"}
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert container_of(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert everything.preparation == plain.preparation


def test_a_fabric_of_resources_alone_stays_within_pod_security_restricted() -> None:
    settings = Settings(fabrics={"efa": Fabric(resources={"vpc.amazonaws.com/efa": "4"})})
    pod = pod_of(made(run(parallelism=NODES | {"fabric": "efa"}), settings).attempt[-1])
    assert "hostNetwork" not in pod
    assert container_of(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}

"""How an attempt is handed to a queue or to a gang scheduler: what each of them reads on Jobs, pods and pod groups.

Kueue holds a Job back by `spec.suspend` and lets it go by the same field. So a Job for Kueue is made suspended (were
its webhook away, nothing would run outside the quota), and that field is never written again. Volcano and the
coscheduling plug-in are schedulers: they bind the pods that name one PodGroup all at once, or none of them.
"""

from finetune_operator.manifests.metadata import Manifest, object_metadata, without_empty
from finetune_operator.names import KUEUE_PRIORITY_LABEL, KUEUE_QUEUE_LABEL, WORKER_ROLE, attempt_job
from finetune_operator.resource import Gang, Qwen3FineTune, TopologyMode
from finetune_operator.settings import Settings

_KUEUE_TOPOLOGY = {
    TopologyMode.REQUIRED: "kueue.x-k8s.io/podset-required-topology",
    TopologyMode.PREFERRED: "kueue.x-k8s.io/podset-preferred-topology",
}


def is_queued_by_kueue(run: Qwen3FineTune) -> bool:
    """Whether Kueue decides when an attempt of `run` starts."""
    return run.spec.scheduling.gang is Gang.KUEUE


def is_placed_by_kueue(run: Qwen3FineTune, settings: Settings) -> bool:
    """Whether Kueue also decides how close to one another the workers are."""
    return is_queued_by_kueue(run) and settings.gangs.kueue.topology_aware


def job_labels(run: Qwen3FineTune) -> dict[str, str]:
    """What Kueue reads on the Job; nothing where it has no say."""
    scheduling = run.spec.scheduling
    if not is_queued_by_kueue(run):
        return {}
    assert scheduling.queue is not None, "gang Kueue needs a queue"
    labels = {KUEUE_QUEUE_LABEL: scheduling.queue}
    if scheduling.queue_priority_class is not None:
        labels[KUEUE_PRIORITY_LABEL] = scheduling.queue_priority_class
    return labels


def pod_labels(run: Qwen3FineTune, attempt: int) -> dict[str, str]:
    """What the coscheduling plug-in reads on a worker."""
    if run.spec.scheduling.gang is not Gang.COSCHEDULING:
        return {}
    return {"scheduling.x-k8s.io/pod-group": attempt_job(run.metadata.name, attempt)}


def pod_annotations(run: Qwen3FineTune, attempt: int, settings: Settings) -> dict[str, str]:
    """What Volcano or Kueue read on a worker."""
    topology = run.spec.scheduling.topology
    if run.spec.scheduling.gang is Gang.VOLCANO:
        return {"scheduling.k8s.io/group-name": attempt_job(run.metadata.name, attempt)}
    if topology is not None and is_placed_by_kueue(run, settings):
        return {_KUEUE_TOPOLOGY[topology.mode]: topology.key}
    return {}


def scheduler_name(run: Qwen3FineTune, settings: Settings) -> str | None:
    """The scheduler of the workers; None: the cluster's own."""
    gangs = settings.gangs
    names = {Gang.VOLCANO: gangs.volcano.scheduler_name, Gang.COSCHEDULING: gangs.coscheduling.scheduler_name}
    return names.get(run.spec.scheduling.gang)


def pod_group(run: Qwen3FineTune, attempt: int, job_uid: str) -> Manifest | None:
    """The PodGroup of an attempt, which goes with the attempt's Job; None: the run's gang has none."""
    scheduling, members = run.spec.scheduling, run.spec.parallelism.nodes
    if scheduling.gang is Gang.VOLCANO:
        api_version = "scheduling.volcano.sh/v1beta1"
        spec = {
            "minMember": members,
            "queue": scheduling.queue,
            "priorityClassName": scheduling.priority_class,
        }
    elif scheduling.gang is Gang.COSCHEDULING:
        api_version, spec = "scheduling.x-k8s.io/v1alpha1", {"minMember": members}
    else:
        return None
    name = attempt_job(run.metadata.name, attempt)
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid}
    metadata = object_metadata(run, name, role=WORKER_ROLE, attempt=attempt, owned=False)
    return {
        "apiVersion": api_version,
        "kind": "PodGroup",
        "metadata": metadata | {"ownerReferences": [job]},
        "spec": without_empty(spec),
    }

"""The Job of one attempt: a gang of pods that live and die together.

Replacing one pod of a running gang hangs or kills the others (with a static rendezvous, three nodes were stuck for
good), so nothing here restarts anything: the first failed pod ends the Job, and the operator makes another attempt.
"""

from finetune_contract import RunConfig
from finetune_contract.paths import CONFIG_DIR, PROGRESS_PORT, RENDEZVOUS_PORT
from finetune_operator.manifests import queueing
from finetune_operator.manifests.config_map import config_file
from finetune_operator.manifests.environment import worker_environment
from finetune_operator.manifests.metadata import Manifest, object_metadata, pod_metadata
from finetune_operator.manifests.placement import avoiding, worker_affinity
from finetune_operator.manifests.pod import PodParts, pod_spec
from finetune_operator.manifests.volumes import worker_volumes
from finetune_operator.names import WORKER_ROLE, workers_service
from finetune_operator.names import attempt_job as job_name
from finetune_operator.planning.quantities import multiplied
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Fabric, Settings


def attempt_job(
    run: Qwen3FineTune, config: RunConfig, settings: Settings, avoided_nodes: tuple[str, ...] = ()
) -> Manifest:
    """An Indexed Job with one pod per node and one rank per GPU; its pods are told `config`."""
    number, nodes = config.attempt, run.spec.parallelism.nodes
    metadata = object_metadata(run, job_name(run.metadata.name, number), role=WORKER_ROLE, attempt=number)
    metadata["labels"] |= queueing.job_labels(run)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **({"suspend": True} if queueing.is_queued_by_kueue(run) else {}),
            "backoffLimit": 0,
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": pod_metadata(
                    run,
                    WORKER_ROLE,
                    number,
                    labels=queueing.pod_labels(run, number),
                    annotations=_fabric(run, settings).annotations | queueing.pod_annotations(run, number, settings),
                ),
                "spec": pod_spec(run, _parts(run, config, settings, avoided_nodes), settings),
            },
        },
    }


def _parts(run: Qwen3FineTune, config: RunConfig, settings: Settings, avoided_nodes: tuple[str, ...]) -> PodParts:
    return PodParts(
        container_name="trainer",
        command=["python", "-m", "finetune_trainer.launch", str(CONFIG_DIR / config_file(config))],
        environment=worker_environment(run, config.attempt, settings, _fabric(run, settings)),
        mounted=worker_volumes(run, config, settings.pods.shared_memory),
        resources=_resources(run, _fabric(run, settings)),
        ports=[
            {"name": "rendezvous", "containerPort": RENDEZVOUS_PORT, "protocol": "TCP"},
            {"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"},
        ],
        grace_seconds=config.grace_seconds,
        subdomain=workers_service(run.metadata.name),
        scheduler_name=queueing.scheduler_name(run, settings),
        affinity=worker_affinity(run, config.attempt, settings) | avoiding(avoided_nodes),
        fabric=_fabric(run, settings),
    )


def _fabric(run: Qwen3FineTune, settings: Settings) -> Fabric:
    """The profile that the run names, which has been checked to be there; an empty one where it names none."""
    name = run.spec.parallelism.fabric
    return Fabric() if name is None else settings.fabrics[name]


def _resources(run: Qwen3FineTune, fabric: Fabric) -> Manifest:
    """Requests are limits: a gang must not lose one pod because a node was overcommitted."""
    gpus, wanted = run.spec.parallelism.gpus_per_node, run.spec.resources
    resources = {
        **fabric.resources,
        "cpu": multiplied(wanted.cpu_per_gpu, gpus),
        "memory": multiplied(wanted.memory_per_gpu, gpus),
        wanted.gpu_resource: str(gpus),
    }
    return {"requests": dict(resources), "limits": dict(resources)}

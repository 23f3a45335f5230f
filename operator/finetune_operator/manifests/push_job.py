"""The Job of one push: a pod on CPUs that brings a finished run's artifacts to a hub."""

from finetune_contract import PushConfig
from finetune_contract.paths import CONFIG_DIR
from finetune_operator.manifests.config_map import config_file
from finetune_operator.manifests.environment import push_environment
from finetune_operator.manifests.metadata import Manifest, object_metadata, pod_metadata
from finetune_operator.manifests.pod import PodParts, pod_spec
from finetune_operator.manifests.volumes import push_volumes
from finetune_operator.names import PUSH_REQUEST_ANNOTATION, PUSH_ROLE, PUSH_TARGET_ANNOTATION
from finetune_operator.names import push_job as job_name
from finetune_operator.planning import push_request, push_target
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings

_GRACE_SECONDS = 30
"""Kubernetes' own default: a push that is broken off is done again, and sends only what is missing."""


def push_job(run: Qwen3FineTune, config: PushConfig, number: int, settings: Settings) -> Manifest:
    """One pod that is told `config` and ends with a PushOutcome.

    It is tried once: the operator decides about another try.
    """
    resources = {"cpu": settings.pods.prepare_cpu, "memory": settings.pods.prepare_memory}
    parts = PodParts(
        container_name="push",
        command=["python", "-m", "finetune_trainer.push", str(CONFIG_DIR / config_file(config))],
        environment=push_environment(run, settings),
        mounted=push_volumes(run, config),
        resources={"requests": dict(resources), "limits": dict(resources)},
        ports=[],
        grace_seconds=_GRACE_SECONDS,
    )
    push = run.spec.output.push
    assert push is not None, "a push is asked for"
    told = {PUSH_TARGET_ANNOTATION: push_target(run, push), PUSH_REQUEST_ANNOTATION: push_request(push)}
    metadata = object_metadata(run, job_name(run.metadata.name, number), role=PUSH_ROLE, push=number)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata | {"annotations": told},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": pod_metadata(run, PUSH_ROLE, push=number),
                "spec": pod_spec(run, parts, settings),
            },
        },
    }

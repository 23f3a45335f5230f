"""The Job of one push: a pod on CPUs that brings a finished run's artifacts to a hub."""

from finetune_contract import PushConfig
from finetune_operator.manifests.cpu_job import cpu_job
from finetune_operator.manifests.environment import push_environment
from finetune_operator.manifests.metadata import Manifest, object_metadata, pod_metadata
from finetune_operator.manifests.volumes import push_volumes
from finetune_operator.names import PUSH_REQUEST_ANNOTATION, PUSH_ROLE, PUSH_TARGET_ANNOTATION
from finetune_operator.names import push_job as job_name
from finetune_operator.planning import push_request, push_target
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings


def push_job(run: Qwen3FineTune, config: PushConfig, number: int, settings: Settings) -> Manifest:
    """One pod that is told `config` and ends with a PushOutcome."""
    push = run.spec.output.push
    assert push is not None, "a push is asked for"
    told = {PUSH_TARGET_ANNOTATION: push_target(run, push), PUSH_REQUEST_ANNOTATION: push_request(push)}
    metadata = object_metadata(run, job_name(run.metadata.name, number), role=PUSH_ROLE, push=number)
    return cpu_job(
        run,
        config,
        settings,
        stage="push",
        metadata=metadata | {"annotations": told},
        pod_metadata=pod_metadata(run, PUSH_ROLE, push=number),
        environment=push_environment(run, settings),
        mounted=push_volumes(run, config),
    )

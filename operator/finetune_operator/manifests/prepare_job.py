"""The Job that fetches the model and prepares the dataset, before a GPU is asked for."""

from finetune_contract import PrepareConfig
from finetune_contract.paths import CONFIG_DIR
from finetune_operator.manifests.config_map import config_file
from finetune_operator.manifests.environment import prepare_environment
from finetune_operator.manifests.metadata import Manifest, object_metadata, pod_metadata
from finetune_operator.manifests.pod import PodParts, pod_spec
from finetune_operator.manifests.volumes import prepare_volumes
from finetune_operator.names import PREPARE_ROLE
from finetune_operator.names import prepare_job as job_name
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings

_GRACE_SECONDS = 30
"""Kubernetes' own default: a download is resumed and a token cache begun anew, nothing has to be saved."""


def prepare_job(run: Qwen3FineTune, config: PrepareConfig, settings: Settings) -> Manifest:
    """One pod on CPUs that is told `config`, fills the cache and ends with a PrepareOutcome.

    It is tried once: the operator decides about another try.
    """
    name = run.metadata.name
    resources = {"cpu": settings.pods.prepare_cpu, "memory": settings.pods.prepare_memory}
    parts = PodParts(
        container_name="prepare",
        command=["python", "-m", "finetune_trainer.prepare", str(CONFIG_DIR / config_file(config))],
        environment=prepare_environment(run, settings),
        mounted=prepare_volumes(run, config),
        resources={"requests": dict(resources), "limits": dict(resources)},
        ports=[],
        grace_seconds=_GRACE_SECONDS,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": object_metadata(run, job_name(name), role=PREPARE_ROLE),
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": pod_metadata(run, PREPARE_ROLE),
                "spec": pod_spec(run, parts, settings),
            },
        },
    }

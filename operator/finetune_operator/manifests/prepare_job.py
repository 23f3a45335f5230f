"""The Job that fetches the model and prepares the dataset, before a GPU is asked for."""

from finetune_contract import PrepareConfig
from finetune_operator.manifests.cpu_job import cpu_job
from finetune_operator.manifests.environment import prepare_environment
from finetune_operator.manifests.metadata import Manifest, object_metadata, pod_metadata
from finetune_operator.manifests.volumes import prepare_volumes
from finetune_operator.names import PREPARE_ROLE
from finetune_operator.names import prepare_job as job_name
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings


def prepare_job(run: Qwen3FineTune, config: PrepareConfig, settings: Settings) -> Manifest:
    """One pod on CPUs that is told `config`, fills the cache and ends with a PrepareOutcome."""
    return cpu_job(
        run,
        config,
        settings,
        stage="prepare",
        metadata=object_metadata(run, job_name(run.metadata.name), role=PREPARE_ROLE),
        pod_metadata=pod_metadata(run, PREPARE_ROLE),
        environment=prepare_environment(run, settings),
        mounted=prepare_volumes(run, config),
    )

"""Everything that a stage of a run needs, in the order in which it is made."""

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_operator.manifests.attempt_job import attempt_job
from finetune_operator.manifests.claims import own_claims
from finetune_operator.manifests.config_map import config_map
from finetune_operator.manifests.metadata import Manifest
from finetune_operator.manifests.prepare_job import prepare_job
from finetune_operator.manifests.push_job import push_job
from finetune_operator.manifests.workers_service import workers_service
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings


def preparation_objects(run: Qwen3FineTune, config: PrepareConfig, settings: Settings) -> list[Manifest]:
    """Volumes, then what is told, then the pod that reads it."""
    return [*own_claims(run), config_map(run, config), prepare_job(run, config, settings)]


def attempt_objects(
    run: Qwen3FineTune, config: RunConfig, settings: Settings, *, avoided_nodes: tuple[str, ...] = ()
) -> list[Manifest]:
    """The Service first: the ranks look for its names as soon as they run."""
    job = attempt_job(run, config, settings, avoided_nodes)
    return [workers_service(run), config_map(run, config), job]


def push_objects(run: Qwen3FineTune, config: PushConfig, number: int, settings: Settings) -> list[Manifest]:
    """What is told, then the pod that reads it."""
    return [config_map(run, config), push_job(run, config, number, settings)]

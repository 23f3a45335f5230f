"""What the Jobs of the pods on CPUs have in common: one pod each, which is told a config and ends with an outcome."""

from finetune_contract.paths import CONFIG_DIR
from finetune_operator.manifests.config_map import Config, config_file
from finetune_operator.manifests.metadata import Manifest
from finetune_operator.manifests.pod import PodParts, pod_spec
from finetune_operator.manifests.volumes import Mounted
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings

_GRACE_SECONDS = 30
"""Kubernetes' own default: downloads and uploads are gone on with, a token cache is begun anew, nothing is saved."""


def cpu_job(
    run: Qwen3FineTune,
    config: Config,
    settings: Settings,
    *,
    stage: str,
    metadata: Manifest,
    pod_metadata: Manifest,
    environment: list[Manifest],
    mounted: list[Mounted],
) -> Manifest:
    """The Job of `finetune_trainer.STAGE`. It is tried once: the operator decides about another try."""
    resources = {"cpu": settings.pods.prepare_cpu, "memory": settings.pods.prepare_memory}
    parts = PodParts(
        container_name=stage,
        command=["python", "-m", f"finetune_trainer.{stage}", str(CONFIG_DIR / config_file(config))],
        environment=environment,
        mounted=mounted,
        resources={"requests": dict(resources), "limits": dict(resources)},
        ports=[],
        grace_seconds=_GRACE_SECONDS,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "template": {"metadata": pod_metadata, "spec": pod_spec(run, parts, settings)},
        },
    }

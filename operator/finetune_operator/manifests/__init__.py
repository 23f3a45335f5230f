"""Pure: resource + what the trainer is told -> Kubernetes objects as plain dicts, one file per kind."""

from finetune_operator.manifests.attempt_job import attempt_job
from finetune_operator.manifests.bundles import attempt_objects, preparation_objects, push_objects
from finetune_operator.manifests.claims import cache_claim_name, named_claims, output_claim_name, own_claims
from finetune_operator.manifests.config_map import config_map, config_map_name
from finetune_operator.manifests.metadata import Manifest
from finetune_operator.manifests.prepare_job import prepare_job
from finetune_operator.manifests.push_job import push_job
from finetune_operator.manifests.queueing import is_queued_by_kueue, pod_group
from finetune_operator.manifests.volumes import pod_locations
from finetune_operator.manifests.workers_service import workers_service

__all__ = [
    "Manifest",
    "attempt_job",
    "attempt_objects",
    "cache_claim_name",
    "config_map",
    "config_map_name",
    "is_queued_by_kueue",
    "named_claims",
    "output_claim_name",
    "own_claims",
    "pod_group",
    "pod_locations",
    "preparation_objects",
    "prepare_job",
    "push_job",
    "push_objects",
    "workers_service",
]

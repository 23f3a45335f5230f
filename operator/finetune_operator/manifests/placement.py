"""Which nodes the workers of an attempt are drawn to: those close to one another."""

from finetune_operator.manifests.metadata import Manifest
from finetune_operator.manifests.queueing import is_placed_by_kueue
from finetune_operator.names import ATTEMPT_LABEL, ROLE_LABEL, RUN_LABEL, WORKER_ROLE
from finetune_operator.resource import Qwen3FineTune, TopologyMode
from finetune_operator.settings import Settings


def worker_affinity(run: Qwen3FineTune, attempt: int, settings: Settings) -> Manifest:
    """The affinity of the workers of `attempt`; empty where nothing is asked for, or Kueue places them.

    Of one attempt alone: what is left of an earlier one must not draw the next to where it failed.
    """
    topology = run.spec.scheduling.topology
    if topology is None or is_placed_by_kueue(run, settings):
        return {}
    peers = {RUN_LABEL: run.metadata.name, ROLE_LABEL: WORKER_ROLE, ATTEMPT_LABEL: str(attempt)}
    term = {"labelSelector": {"matchLabels": peers}, "topologyKey": topology.key}
    if topology.mode is TopologyMode.REQUIRED:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    preferred = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}

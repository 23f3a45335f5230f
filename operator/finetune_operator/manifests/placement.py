"""Which nodes the workers of an attempt are drawn to, those close to one another, and which they keep away from.

To keep away is a preference and no condition. A condition would keep a run for ever out of a cluster of a single node,
or of one whose other nodes are all at work, for a suspicion that may be wrong; the same node again costs one more
attempt, which is counted. It is as strong as a preference can be: weight 100 outdoes a node's free room, and the image
that it has.
"""

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


def avoiding(nodes: tuple[str, ...]) -> Manifest:
    """The affinity that prefers all other nodes; empty where there is nothing to avoid.

    Nodes are told by their names: the label kubernetes.io/hostname need not be the same. A name's field takes a single
    value, so there is a requirement for each.
    """
    if not nodes:
        return {}
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    preferred = [{"weight": 100, "preference": {"matchFields": others}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}

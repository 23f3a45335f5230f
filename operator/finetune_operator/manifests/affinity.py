"""Nodes that pods keep away from.

It is a preference and no condition. A condition would keep a run for ever out of a cluster of a single node, or of one
whose other nodes are all at work, for a suspicion that may be wrong; the same node again costs one more attempt, which
is counted. It is as strong as a preference can be: weight 100 outdoes a node's free room, and the image that it has.
"""

from finetune_operator.manifests.metadata import Manifest


def avoiding(nodes: tuple[str, ...]) -> Manifest | None:
    """The affinity that prefers all other nodes; None: there is nothing to avoid.

    Nodes are told by their names: the label kubernetes.io/hostname need not be the same. A name's field takes a single
    value, so there is a requirement for each.
    """
    if not nodes:
        return None
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    preferred = [{"weight": 100, "preference": {"matchFields": others}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}

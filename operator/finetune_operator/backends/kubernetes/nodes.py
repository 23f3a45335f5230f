"""How much memory one GPU has, by the labels that GPU feature discovery puts on nodes."""

import logging

from finetune_operator.backends.kubernetes.client import Api, ApiError, Object
from finetune_operator.backends.kubernetes.kept import KeptAnswers
from finetune_operator.backends.kubernetes.kinds import NODES
from finetune_operator.resource import Qwen3FineTune

FRESH_SECONDS = 300.0
MIB = 1024 * 1024

logger = logging.getLogger(__name__)


class Nodes:
    """The cluster's GPU nodes, listed once in FRESH_SECONDS for all runs together."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._labelled = KeptAnswers(self._ask, lambda _: FRESH_SECONDS)

    async def gpu_memory_bytes(self, run: Qwen3FineTune) -> int | None:
        """Of one GPU of the run's resource, on the smallest node that the run may use.

        None: nobody knows, or nobody has to, since the run states it.
        """
        resource = run.spec.resources.gpu_resource
        if run.spec.resources.gpu_memory is not None:
            return None
        label = f"{resource}.memory"  # in MiB; MIG slices have a label of the same form
        wanted = run.spec.scheduling.node_selector.items()
        known = [
            int(node["metadata"]["labels"][label])
            for node in await self._labelled.get(label)
            if wanted <= node["metadata"]["labels"].items() and _offers(node, resource)
        ]
        return min(known) * MIB if known else None

    async def _ask(self, label: str) -> list[Object]:
        try:
            nodes, _ = await self._api.list_all(NODES, None, labels=label)
        except ApiError as error:  # an operator that is bound to namespaces may not see nodes
            logger.warning("the memory of GPUs is not known: %s", error)
            return []
        return [node for node in nodes if node["metadata"]["labels"][label].isdigit()]


def _offers(node: Object, resource: str) -> bool:
    return bool(node.get("status", {}).get("allocatable", {}).get(resource, "0") != "0")

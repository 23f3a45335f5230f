"""How much memory one GPU has, by the labels that GPU feature discovery puts on nodes."""

import logging
import math
from collections.abc import Callable

from finetune_operator.backends.kubernetes.client import Api, ApiError, Object
from finetune_operator.backends.kubernetes.kinds import NODES
from finetune_operator.resource import Qwen3FineTune

FRESH_SECONDS = 300.0
MIB = 1024 * 1024

logger = logging.getLogger(__name__)


class Nodes:
    """The cluster's GPU nodes, listed once in FRESH_SECONDS for all runs together."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._kept: dict[str, tuple[float, list[Object]]] = {}

    async def gpu_memory_bytes(self, run: Qwen3FineTune) -> int | None:
        """Of one GPU of the run's resource, on the smallest node that the run may use; None: nobody knows."""
        resource = run.spec.resources.gpu_resource
        label = f"{resource}.memory"  # in MiB; MIG slices have a label of the same form
        wanted = run.spec.scheduling.node_selector.items()
        known = [
            int(node["metadata"]["labels"][label])
            for node in await self._labelled(label)
            if wanted <= node["metadata"]["labels"].items() and _offers(node, resource)
        ]
        return min(known) * MIB if known else None

    async def _labelled(self, label: str) -> list[Object]:
        at, nodes = self._kept.get(label, (-math.inf, []))
        if self._clock() - at > FRESH_SECONDS:
            try:
                nodes, _ = await self._api.list_all(NODES, None, labels=label)
            except ApiError as error:  # an operator that is bound to namespaces may not see nodes
                logger.warning("the memory of GPUs is not known: %s", error)
                nodes = []
            nodes = [node for node in nodes if node["metadata"]["labels"][label].isdigit()]
            self._kept[label] = (self._clock(), nodes)
        return nodes


def _offers(node: Object, resource: str) -> bool:
    return bool(node.get("status", {}).get("allocatable", {}).get(resource, "0") != "0")

"""Which ranks there are, and on which node each of them runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """One rank per GPU, counted through node by node: torchrun's own order for a static rendezvous."""

    nodes: int
    gpus_per_node: int

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.gpus_per_node

    def ranks(self, node: int) -> range:
        """The ranks that run on node number `node`."""
        return range(node * self.gpus_per_node, (node + 1) * self.gpus_per_node)

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        return f"{nodes} x {self.gpus_per_node} GPU{'s' if self.gpus_per_node > 1 else ''}"

"""How evenly the routers of a mixture spread the tokens over the experts: told every few steps, never asked in between.

Shape letters: L layers with experts, X experts.

The counts are kept where they are made, on the device of each rank; see experts.py. A layer that is recomputed in the
backward pass counts its tokens twice, which leaves the shares as they are.
"""

from dataclasses import dataclass

from torch import Tensor

from finetune_trainer.distributed import World, sums

LOAD_STEPS = 50
"""Steps between two reports; the run's last step brings one as well."""


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """The tokens of all ranks since the last report."""

    shares: tuple[tuple[float, ...], ...]
    """Of each layer's choices, those that fell on each of its experts: [L, X], each row sums to 1."""

    @property
    def imbalance(self) -> float:
        """Share of the busiest expert in units of an even share, in the layer where that is largest: 1 is even."""
        return max(max(layer) * len(layer) for layer in self.shares)

    @property
    def busiest(self) -> tuple[int, int]:
        """That layer, counted among those with experts, and that expert; from 0."""
        layer = max(range(len(self.shares)), key=lambda number: max(self.shares[number]))
        return layer, self.shares[layer].index(max(self.shares[layer]))

    @property
    def idle(self) -> int:
        """Experts of all layers that got nothing."""
        return sum(share == 0 for layer in self.shares for share in layer)

    def __str__(self) -> str:
        layer, expert = self.busiest
        count = sum(len(layer) for layer in self.shares)
        return (
            f"the busiest expert got {self.imbalance:.1f} times an even share (layer {layer}, expert {expert}); "
            f"{self.idle} of {count} got nothing"
        )


def load_of(load_LX: Tensor, world: World) -> ExpertLoad:
    """The shares over all ranks, of what each has counted."""
    layers, experts = load_LX.shape
    counts = sums(world, load_LX.flatten().tolist())
    rows = [counts[layer * experts : (layer + 1) * experts] for layer in range(layers)]
    return ExpertLoad(tuple(tuple(count / max(sum(row), 1) for count in row) for row in rows))

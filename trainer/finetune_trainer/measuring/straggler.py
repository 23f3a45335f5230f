"""Which rank the others wait for, by what every rank knows of its own steps.

A rank's own time is what it computes, or idles, without waiting for others: a step less the communication that nothing
overlaps with, and the wait for its own batches. Both are measured anyway (`communication`, `meter`). All ranks take
equally long for a step, since they wait for one another; so a rank that waits less than the others is slower.

One measured step says little where sequences differ in length. So a rank that looks slow is measured again at every
sample, and counts as a straggler once it was the slowest in several of them.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finetune_trainer.measuring.readings import Reading, Sample

SUSPICIOUS_RATIO: Final = 1.3
"""From here on the slowest rank is measured again soon; where the alarm begins, too."""
SAMPLES: Final = 3
"""So many in a row have to agree."""


@dataclass(frozen=True, slots=True)
class Slowest:
    """The slowest rank of a sample."""

    rank: int
    ratio: float
    """Its own time / median of the other ranks'."""


def slowest(sample: Sample) -> Slowest | None:
    """None: it is not known of every rank, or there is but one."""
    shares = [_own_share(reading, sample.seconds) for reading in sample.ranks]
    if len(shares) < 2 or any(math.isnan(share) for share in shares):
        return None
    rank = max(range(len(shares)), key=shares.__getitem__)
    return Slowest(rank, shares[rank] / max(_median_of_others(shares, rank), 1e-6))


def _own_share(reading: Reading, seconds: float) -> float:
    """Of a step."""
    waiting = min(1.0, reading.data_wait_seconds / seconds)
    return waiting + (1 - waiting) * (1 - reading.communication_exposed)


def _median_of_others(shares: Sequence[float], rank: int) -> float:
    return statistics.median(share for index, share in enumerate(shares) if index != rank)


class Stragglers:
    """What the last samples agree on; the same on every rank, since all see the same samples."""

    def __init__(self) -> None:
        self._last: deque[Slowest] = deque(maxlen=SAMPLES)

    def add(self, found: Slowest | None) -> None:
        """Note the slowest rank of a sample."""
        if found is not None:
            self._last.append(found)

    @property
    def is_suspicious(self) -> bool:
        """Whether the newest sample should be followed by another measurement soon."""
        return bool(self._last) and self._last[-1].ratio > SUSPICIOUS_RATIO

    @property
    def ratio(self) -> float | None:
        """By how much the same rank was slower in all of them at least; 1 while they disagree, None without enough."""
        if len(self._last) < SAMPLES:
            return None
        return min(each.ratio for each in self._last) if len({each.rank for each in self._last}) == 1 else 1.0

"""Whether the loss falls: halves of the last steps compared with each other and with the run's beginning.

A step's loss is noisy, since every step sees other rows. So means are compared, and a difference counts only where it
exceeds three standard errors; what noise explains is 0.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence

HALF = 50
"""Steps on either side of a comparison."""
FEWEST = 20
"""Steps that a half must have to say anything."""
STANDARD_ERRORS = 3.0


class LossTrend:
    """The losses of this attempt that are worth remembering; those of earlier ones have gone with their processes."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=2 * HALF)
        self._step = 0

    def add(self, step: int, loss: float) -> None:
        """Note the loss of a step, counted from 1."""
        if step == self._step + 1 <= HALF:  # only in an attempt that began at the first step
            self._first.append(loss)
            self._step = step
        self._last.append(loss)

    @property
    def recent(self) -> float | None:
        """Relative change from the older to the newer half of the last steps; None: too few of them."""
        losses = list(self._last)
        middle = len(losses) // 2
        return relative_change(losses[:middle], losses[middle:])

    @property
    def since_start(self) -> float | None:
        """Relative change from the run's first steps to the last ones; None: too few steps, or a resumed attempt."""
        if len(self._first) < HALF or len(self._last) < 2 * HALF:
            return None
        return relative_change(self._first, list(self._last)[HALF:])


def relative_change(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Change of the mean as a share of the mean before; 0 within the noise, None with too few values."""
    if min(len(before), len(after)) < FEWEST:
        return None
    old, new = statistics.fmean(before), statistics.fmean(after)
    noise = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(after) / len(after))
    if old == 0 or abs(new - old) <= STANDARD_ERRORS * noise:
        return 0.0
    return (new - old) / abs(old)

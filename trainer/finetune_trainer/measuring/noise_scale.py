"""How noisy a step's gradient is: the batch size at which noise and gradient are equally large.

A gradient over B sequences is the true one, G, plus noise of variance tr(S)/B. The scale is tr(S)/|G|^2, in sequences.
Below it a larger batch saves steps almost in proportion; above it, mostly costs computation.
Source: McCandlish et al. 2018, arXiv 1812.06162, section 2.2 (the simple noise scale).

Two sums tell noise and gradient apart, of one batch size and without gradients of single micro-batches, which no
sharded strategy keeps: the mean of the squared norm over the last steps, |G|^2 + N with N = tr(S)/B, and the squared
norm of the mean gradient, |G|^2 + k N, k being the sum of the squared weights of that mean. The mean gradient is
AdamW's own first moment, and the norms are averaged with its weights. What is clipped is counted as clipped, since the
moment sees no more.
"""

import math
from collections import deque

SAMPLES = 20
"""Samples whose noise and gradient are averaged before they are divided."""
FEWEST = 5
"""Samples that there must be to say anything."""
MEMORY = 3.0
"""In units of 1 / (1 - beta): after so many updates a moment holds 5 % of what came before them."""


class NoiseScale:
    """Follows the updates of an attempt."""

    def __init__(self, beta: float, sequences: int) -> None:
        """`beta` is that of the first moment, `sequences` the global batch."""
        self._beta, self._sequences = beta, sequences
        self.restart()

    def restart(self) -> None:
        """The moment holds gradients that were not added here: a resumed run, a rollback, another batch size."""
        self._updates = 0
        self._squares = 0.0
        self._noise: deque[float] = deque(maxlen=SAMPLES)
        self._signal: deque[float] = deque(maxlen=SAMPLES)

    def add(self, norm: float, max_norm: float | None) -> None:
        """Note the gradient norm of an update, before it was clipped to `max_norm`."""
        clipped = norm if max_norm is None else min(norm, max_norm)
        self._squares = self._beta * self._squares + (1 - self._beta) * clipped**2
        self._updates += 1

    def sample(self, moment_norm: float) -> None:
        """Note the norm of the first moment, as it was after the update that was added last."""
        if self._updates <= MEMORY / (1 - self._beta):
            return
        left = self._beta**self._updates  # the weight that the moment's zero at the beginning still has
        mean_square = self._squares / (1 - left)
        square_of_mean = (moment_norm / (1 - left)) ** 2
        weight = (1 - self._beta) * (1 + left) / ((1 + self._beta) * (1 - left))
        if weight < 1:
            self._noise.append((mean_square - square_of_mean) / (1 - weight))
            self._signal.append((square_of_mean - weight * mean_square) / (1 - weight))

    @property
    def scale_sequences(self) -> float | None:
        """The noise scale; None: too few samples, or a gradient that the noise hides."""
        noise, signal = math.fsum(self._noise), math.fsum(self._signal)
        if len(self._noise) < FEWEST or signal <= 0:
            return None
        return self._sequences * max(noise, 0.0) / signal


def advice(scale_sequences: float, sequences: int) -> str:
    """What a noise scale says of a global batch."""
    ratio = scale_sequences / sequences
    if ratio > 2:
        told = "a larger training.globalBatch would save steps almost in proportion"
    elif ratio < 0.5:
        told = "a smaller training.globalBatch would come as far with less computation"
    else:
        told = "it suits the noise"
    return f"about {scale_sequences:.3g} sequences, {ratio:.2g} times the global batch: {told}"

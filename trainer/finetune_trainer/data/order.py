"""Orders that depend on a seed alone, and stay the same from one NumPy release to the next."""

import numpy as np
from numpy.typing import NDArray


def shuffled(count: int, *words: int) -> NDArray[np.int64]:
    """The numbers 0..count-1 in an order that is a function of `words` (a seed and what it is used for).

    Sorts raw PCG64 output: NumPy promises that stream for ever, and its own `permutation` only within a release.
    """
    raw = np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)
    return np.argsort(np.asarray(raw, dtype=np.uint64), kind="stable").astype(np.int64)

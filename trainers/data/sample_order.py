"""Random numbers that are a function of their keys alone: the same in every process, and in every version of NumPy."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# The last word of Philox's counter keeps apart what the numbers are drawn for.
PURPOSES = {"order": 0, "augment": 1, "split": 2}


def philox(seed: int, epoch: int, purpose: str) -> np.random.Philox:
    """The counter-based generator of Salmon et al. (SC'11), keyed by seed and epoch."""
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=[0, 0, 0, PURPOSES[purpose]])


def permutation(n: int, seed: int, epoch: int, purpose: str = "order") -> Array:
    """int64 [n]: the positions 0 to n - 1, shuffled.

    Sorts raw 64-bit words: NumPy promises that these never change, but not that `Generator.permutation` will not.
    """
    words = philox(seed, epoch, purpose).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)

"""Points that were not tried yet, as far as there are any."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.search.known_trials import point_key
from tuneyard.tune.space import grid, size

ATTEMPTS = 8
COUNTABLE = 20_000
"""A space with more points than this is not listed to find the ones that are left."""


def first_untried(
    config: TuneConfig, tried: AbstractSet[str], count: int, propose: Callable[[np.random.Generator], dict[str, Any]]
) -> dict[str, Any] | None:
    """The first of a few proposals that was not tried; else one drawn from what is left; None where nothing is.

    Args:
        tried: the points that were, as `point_key` writes them.
        count: how many trials there are, which with the sweep's seed begins the random numbers.
        propose: makes a point; each attempt has random numbers of its own.
    """
    point: dict[str, Any] = {}
    for attempt in range(ATTEMPTS):
        point = propose(np.random.default_rng([config.seed, count, attempt]))
        if point_key(point) not in tried:
            return point
    if size(config.space) > COUNTABLE:
        return point
    left = [found for found in grid(config.space) if point_key(found) not in tried]
    rng = np.random.default_rng([config.seed, count, ATTEMPTS])
    return left[int(rng.integers(len(left)))] if left else None

"""Several objectives at once: which points no other point beats."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuneyard.tune.search.unit_cube import Floats


def pareto_front(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """The positions of the points that no other point is at least as good as in everything and better in something.

    Points with a value that is not finite are left out. Of equal points all are in the front.

    modes: "min" or "max" for each of a point's values.
    """
    finite = [place for place, point in enumerate(points) if all(math.isfinite(value) for value in point)]
    signs = np.array([1.0 if mode == "min" else -1.0 for mode in modes])
    losses = np.array([points[place] for place in finite], dtype=float).reshape(len(finite), len(modes)) * signs
    return [finite[place] for place in np.flatnonzero(_undominated(losses))]


def best_first(losses: Floats) -> NDArray[np.intp]:
    """The order of (points, objectives), lower is better: by one value, or else front by front.

    Within a front the points with the most room around them come first (the crowding distance of NSGA-II, Deb et al.,
    IEEE TEC 2002), so that the front's whole width is kept.
    """
    if losses.shape[1] == 1:
        return np.argsort(losses[:, 0], kind="stable")
    left = np.arange(len(losses))
    ordered: list[np.intp] = []
    while len(left):
        inside = _undominated(losses[left])
        front = left[inside]
        ordered += list(front[np.argsort(-_crowding(losses[front]), kind="stable")])
        left = left[~inside]
    return np.array(ordered, dtype=np.intp)


def _undominated(losses: Floats) -> NDArray[np.bool_]:
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)
    better = (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def _crowding(losses: Floats) -> Floats:
    room = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        room[order[0]] = room[order[-1]] = math.inf
        if len(order) > 2 and width > 0:
            room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return room

"""The search space as a cube: each key's range from 0 to 1, so that a model sees one kind of number.

A point is a row of places. A number lies at its place in its range, on a logarithmic scale where the domain has one.
Where there are n values (choices, whole numbers, steps), each has its n-th part of the way, and lies in its middle. A
key that does not count in the point is NaN.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneyard.trainers.config.domains import (
    Space,
    allowed_values,
    as_text,
    at_step,
    contains,
    is_active,
    last_step,
    parents_first,
)
from tuneyard.trainers.config.search import Domain

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Axis:
    """One key of the space.

    Attributes:
        count: how many values it has; 0 where there is no end of them. Steps on a logarithmic scale count as endless:
            a place is rounded to the nearest step.
        ordered: False for a choice.
        places: the values as JSON, each with its position; of a choice alone.
    """

    key: str
    domain: Domain
    kind: str
    bounds: tuple[Any, ...]
    count: int
    ordered: bool
    places: Mapping[str, int]


class UnitCube:
    """Turns points into rows, and rows into points."""

    def __init__(self, space: Space) -> None:
        """`space`: its conditions must have been checked."""
        self._space = space
        self.axes = [_axis(key, space[key]) for key in parents_first(space)]
        """Each key after those that its `when` names."""
        order = [axis.key for axis in self.axes]
        self._conditions = [
            (child, order.index(parent), _wanted(self.axes[order.index(parent)], wanted))
            for child, axis in enumerate(self.axes)
            for parent, wanted in axis.domain.when.items()
        ]

    def row(self, overrides: Mapping[str, Any]) -> Floats | None:
        """The place of each axis; None where a value is missing or not of the space (any more).

        Keys that are not of the space are passed over, and so are those that do not count beside the other values.
        """
        row = np.full(len(self.axes), math.nan)
        known: dict[str, Any] = {}
        for index, axis in enumerate(self.axes):
            if axis.domain.when and not is_active(axis.domain, known):
                continue
            if axis.key not in overrides or not contains(axis.domain, overrides[axis.key]):
                return None
            known[axis.key] = overrides[axis.key]
            row[index] = _place(axis, overrides[axis.key])
        return row

    def point(self, row: Floats, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values at these places; keys that do not count beside the others are left out.

        fixed: values to have in place of the row's.
        """
        point: dict[str, Any] = {}
        for axis, place in zip(self.axes, row.tolist(), strict=True):
            if not axis.domain.when or is_active(axis.domain, point):
                point[axis.key] = fixed[axis.key] if fixed and axis.key in fixed else _value(axis, place)
        return {key: point[key] for key in self._space if key in point}

    def settled(self, rows: Floats) -> Floats:
        """Rows of any places as those of points: in the middle of each value's part, NaN for what does not count."""
        settled = rows.copy()
        for index, axis in enumerate(self.axes):
            if axis.count:
                settled[:, index] = (
                    np.minimum(np.floor(rows[:, index] * axis.count), axis.count - 1) + 0.5
                ) / axis.count
        # A parent comes before its children, so that one which does not count takes them with it.
        for child, parent, wanted in self._conditions:
            met = (np.abs(settled[:, parent, None] - wanted) < 0.25 / self.axes[parent].count).any(axis=1)
            settled[~met, child] = math.nan
        return settled

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """A point drawn at random, each key as its domain says."""
        return self.point(rng.random(len(self.axes)))


def _axis(key: str, domain: Domain) -> Axis:
    kind, bounds = domain.kind, tuple(domain.values)
    values = None if kind == "qloguniform" else allowed_values(domain)
    places = {as_text(value): place for place, value in enumerate(bounds)} if kind == "choice" else {}
    return Axis(key, domain, kind, bounds, len(values or ()), kind != "choice", places)


def _wanted(parent: Axis, values: Any) -> Floats:
    listed = values if isinstance(values, list) else [values]
    return np.array([_place(parent, value) for value in listed])


def _place(axis: Axis, value: Any) -> float:
    if not axis.ordered:
        return (axis.places[as_text(value)] + 0.5) / axis.count
    low, high = axis.bounds[:2]
    if axis.kind in ("loguniform", "qloguniform"):
        return float(math.log(value / low) / math.log(high / low))
    if not axis.count:
        return float((value - low) / (high - low))
    step = 1 if axis.kind == "randint" else axis.bounds[2]
    return float((min(round((value - low) / step), axis.count - 1) + 0.5) / axis.count)


def _value(axis: Axis, place: float) -> Any:
    index = min(int(place * axis.count), axis.count - 1)
    low, high = (axis.bounds[0], axis.bounds[1]) if axis.ordered else (0, 0)
    match axis.kind:
        case "choice":
            return axis.bounds[index]
        case "randint":
            return low + index
        case "quniform" | "qrandint":
            return at_step(axis.domain, index)
        case "uniform":
            return min(high, max(low, float(low + place * (high - low))))
        case _:
            value = min(high, max(low, math.exp(math.log(low) + place * math.log(high / low))))
            if axis.kind == "loguniform":
                return value
            return at_step(axis.domain, min(round((value - low) / axis.bounds[2]), last_step(axis.domain)))

"""The search space: every point of it, how many there are, and what fits in.

A point maps the keys that count in it to values for the experiment: those whose `when`, if any, is met.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuneyard.trainers.config.domains import (
    allowed_values,
    as_text,
    contains,
    is_active,
    parents_first,
)
from tuneyard.trainers.config.search import Domain
from tuneyard.trainers.errors import ConfigError

Point = dict[str, Any]


def fits(space: Mapping[str, Domain], overrides: Mapping[str, Any]) -> bool:
    """Does every key that counts in this point have a value of its domain? Keys of no domain are passed over."""
    known: dict[str, Any] = {}
    for key in parents_first(space):
        if is_active(space[key], known):
            if key not in overrides or not contains(space[key], overrides[key]):
                return False
            known[key] = overrides[key]
    return True


def grid(space: Mapping[str, Domain], fixed: Mapping[str, Any] | None = None) -> list[Point]:
    """Every point of choices, whole numbers and steps, once each; the last key varies fastest.

    fixed: values that the points have; a point without one of those keys is left out.

    Raises ConfigError where a domain has no end of values.
    """
    points: list[Point] = [{}]
    for key in parents_first(space):
        values = [fixed[key]] if fixed and key in fixed else grid_values(key, space[key])
        points = [
            longer
            for point in points
            for longer in ([point | {key: value} for value in values] if is_active(space[key], point) else [point])
        ]
    wanted = set(fixed or ())
    points = [{key: point[key] for key in space if key in point} for point in points if wanted <= set(point)]
    return _in_order(space, points)


def grid_values(key: str, domain: Domain) -> list[Any]:
    """The values of one axis; ConfigError where there is no end of them."""
    values = allowed_values(domain)
    if values is None:
        raise ConfigError(f"tune.space.{key}: {domain.kind} has no end of values for a grid; give choice or a step.")
    return values


def size(space: Mapping[str, Domain]) -> float:
    """How many points there are at most, conditions aside; inf where there is no end of them."""
    counts = [allowed_values(domain) for domain in space.values()]
    return math.prod(math.inf if values is None else len(values) for values in counts)


def _in_order(space: Mapping[str, Domain], points: Sequence[Point]) -> list[Point]:
    """By the space's own order of keys, which is not the order that they were put together in."""
    values = {key: [as_text(value) for value in allowed_values(domain) or []] for key, domain in space.items()}

    def places(point: Point) -> list[int]:
        return [
            values[key].index(as_text(point[key])) if key in point and as_text(point[key]) in values[key] else -1
            for key in space
        ]

    return sorted(points, key=places)

"""The search space: points drawn from it, every point of it, and its values as Optuna's parameters.

A point maps the keys that count in it to values for the experiment: those whose `when`, if any, is met.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuneyard.trainers.domains import (
    allowed_values,
    as_text,
    at_step,
    contains,
    is_active,
    last_step,
    parents_first,
)
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.experiment import Domain

Point = dict[str, Any]


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Each key's Optuna distribution. Choices go by their position, since they may be lists or mappings."""
    return {key: _distribution(domain) for key, domain in space.items()}


def to_overrides(space: Mapping[str, Domain], sampled: Mapping[str, Any]) -> Point:
    """What was sampled, as values for the experiment; keys that do not count beside the others are left out."""
    point: Point = {}
    for key in parents_first(space):
        if key in sampled and is_active(space[key], point):
            point[key] = value_of(space[key], sampled[key])
    return {key: point[key] for key in space if key in point}


def from_overrides(space: Mapping[str, Domain], overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inverse of `to_overrides`; None where a value is missing or not of this space (any more).

    Keys that are not of this space, or do not count in this point, are passed over.
    """
    sampled: dict[str, Any] = {}
    for key in parents_first(space):
        if not is_active(space[key], {known: overrides[known] for known in sampled}):
            continue
        raw = raw_of(space[key], overrides[key]) if key in overrides else None
        if raw is None:
            return None
        sampled[key] = raw
    return {key: sampled[key] for key in space if key in sampled}


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


def _distribution(domain: Domain) -> BaseDistribution:
    values = domain.values
    match domain.kind:
        case "choice":
            return CategoricalDistribution(range(len(values)))
        case "uniform":
            return FloatDistribution(values[0], values[1])
        case "quniform":
            # Optuna warns of a range that goes on after its last step.
            return FloatDistribution(values[0], at_step(domain, last_step(domain)), step=values[2])
        case "loguniform" | "qloguniform":
            # Optuna has no steps on a logarithmic scale: they are rounded to when the value is used.
            return FloatDistribution(values[0], values[1], log=True)
        case "randint":
            return IntDistribution(values[0], values[1])
        case _:
            return IntDistribution(values[0], at_step(domain, last_step(domain)), step=values[2])


def value_of(domain: Domain, raw: Any) -> Any:
    """A parameter of Optuna's, as a value for the experiment."""
    if domain.kind == "choice":
        return domain.values[raw]
    if domain.kind in ("quniform", "qloguniform"):
        low, _, step = domain.values
        return at_step(domain, min(round((raw - low) / step), last_step(domain)))
    return raw


def raw_of(domain: Domain, value: Any) -> float | int | None:
    """The inverse of `value_of`; None where the value is not one of the domain's."""
    if not contains(domain, value):
        return None
    if domain.kind == "choice":
        return [as_text(choice) for choice in domain.values].index(as_text(value))
    return value if domain.kind in ("randint", "qrandint") else float(value)

"""The search space: from the experiment's domains to Optuna's distributions, grid points, and values for overrides."""

import itertools
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.experiment import Domain


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Each key's Optuna distribution. Choices go by their position, since they may be lists or mappings."""
    return {key: _distribution(domain) for key, domain in space.items()}


def to_overrides(space: Mapping[str, Domain], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """What was sampled, as values for the experiment."""
    return {key: _value(space[key], raw) for key, raw in sampled.items()}


def from_overrides(space: Mapping[str, Domain], overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inverse of `to_overrides`; None where a value is not of this space (any more)."""
    sampled: dict[str, Any] = {}
    for key, domain in space.items():
        if key not in overrides:
            return None
        value = overrides[key]
        if domain.kind == "choice":
            if value not in domain.values:
                return None
            sampled[key] = domain.values.index(value)
        elif domain.values[0] <= value <= domain.values[1]:
            sampled[key] = value
        else:
            return None
    return sampled


def grid(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every combination of the choices, whole numbers and steps; the last key varies fastest.

    Raises ConfigError where a domain has no end of values.
    """
    axes = [[(key, value) for value in _points(key, domain)] for key, domain in space.items()]
    return [dict(combination) for combination in itertools.product(*axes)]


def _distribution(domain: Domain) -> BaseDistribution:
    values = domain.values
    match domain.kind:
        case "choice":
            return CategoricalDistribution(range(len(values)))
        case "uniform":
            return FloatDistribution(values[0], values[1])
        case "quniform":
            return FloatDistribution(values[0], values[1], step=values[2])
        case "loguniform" | "qloguniform":
            # Optuna has no steps on a logarithmic scale: they are rounded to when the value is used.
            return FloatDistribution(values[0], values[1], log=True)
        case "randint":
            return IntDistribution(values[0], values[1])
        case _:
            return IntDistribution(values[0], values[1], step=values[2])


def _value(domain: Domain, raw: Any) -> Any:
    if domain.kind == "choice":
        return domain.values[raw]
    if domain.kind == "qloguniform":
        low, high, step = domain.values
        return min(max(round(raw / step) * step, low), high)
    return raw


def _points(key: str, domain: Domain) -> list[Any]:
    values = domain.values
    match domain.kind:
        case "choice":
            return values
        case "randint":
            return list(range(values[0], values[1] + 1))
        case "qrandint":
            return list(range(values[0], values[1] + 1, values[2]))
        case "quniform" | "qloguniform":
            low, high, step = values
            return [low + index * step for index in range(int((high - low) / step + 1e-9) + 1)]
        case _:
            raise ConfigError(
                f"tune.space.{key}: {domain.kind} has no end of values for a grid; give choice or a step."
            )

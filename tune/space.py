"""The search space: from the experiment's domains to Optuna's distributions, grid points, and values for overrides."""

import itertools
import json
from collections.abc import Mapping
from decimal import Decimal
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
        raw = _raw(domain, overrides[key])
        if raw is None:
            return None
        sampled[key] = raw
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
            return FloatDistribution(values[0], _at_step(domain, _last_step(domain)), step=values[2])
        case "loguniform" | "qloguniform":
            # Optuna has no steps on a logarithmic scale: they are rounded to when the value is used.
            return FloatDistribution(values[0], values[1], log=True)
        case "randint":
            return IntDistribution(values[0], values[1])
        case _:
            return IntDistribution(values[0], int(_at_step(domain, _last_step(domain))), step=values[2])


def _value(domain: Domain, raw: Any) -> Any:
    if domain.kind == "choice":
        return domain.values[raw]
    if domain.kind in ("quniform", "qloguniform"):
        low, _, step = domain.values
        return _at_step(domain, min(round((raw - low) / step), _last_step(domain)))
    return raw


def _raw(domain: Domain, value: Any) -> float | int | None:
    if domain.kind == "choice":
        # As JSON, since to Python 1, 1.0 and true are equal.
        texts = [json.dumps(choice, sort_keys=True) for choice in domain.values]
        text = json.dumps(value, sort_keys=True)
        return texts.index(text) if text in texts else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and domain.values[0] <= value <= domain.values[1] else None


def _last_step(domain: Domain) -> int:
    """How many whole steps the range holds; Optuna warns of a range that goes on."""
    low, high, step = (Decimal(str(value)) for value in domain.values)
    return int((high - low) // step)


def _at_step(domain: Domain, index: int) -> float:
    """The low end and so many steps. As decimals, so that 0.3 is 0.3 and not three times 0.1, which is more."""
    low, _, step = (Decimal(str(value)) for value in domain.values)
    return float(low + index * step)


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
            return [_at_step(domain, index) for index in range(_last_step(domain) + 1)]
        case _:
            raise ConfigError(
                f"tune.space.{key}: {domain.kind} has no end of values for a grid; give choice or a step."
            )

"""New values near old ones, for population-based training (Jaderberg et al., arXiv 1711.09846)."""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from tuneyard.trainers.config.domains import active_only, as_text, at_step, last_step
from tuneyard.trainers.config.search import Domain

FACTORS = (0.8, 1.2)
RESAMPLED = 0.25
"""How often a value is drawn anew instead of being moved."""


class Perturbation:
    """Moves every value a little, or now and then draws it anew: the explore step of the paper."""

    def __init__(self, space: Mapping[str, Domain]) -> None:
        self._space = space

    def learn(self, epoch: int, values: Mapping[str, Any], gain: float) -> None:
        """The moves depend on no results."""

    def explore(
        self, values: Mapping[str, Any], epoch: int, training: Sequence[tuple[int, Mapping[str, Any]]], draws: Random
    ) -> dict[str, Any]:
        """Each value of the space moved; see `Explorer`."""
        return active_only(self._space, {key: moved(self._space[key], values.get(key), draws) for key in self._space})


def moved(domain: Domain, value: Any, draws: Random) -> Any:
    """A number times 0.8 or 1.2 within its bounds, a neighbour of a choice, or with `RESAMPLED` a new draw.

    A whole number and a value on a step move by one step at least. None (there was no value) is drawn.
    """
    anew, direction = draws.random() < RESAMPLED, draws.randrange(2)
    drawn = sample(domain, draws)  # always, so that what one key draws does not depend on what another did
    if anew or value is None:
        return drawn
    if domain.kind == "choice":
        place = [as_text(choice) for choice in domain.values].index(as_text(value)) + (-1, 1)[direction]
        return domain.values[min(max(place, 0), len(domain.values) - 1)]
    found = fitted(domain, value * FACTORS[direction])
    step = _step(domain)
    if found == value and step is not None:
        return fitted(domain, value + (-step, step)[direction])
    return found


def sample(domain: Domain, draws: Random) -> Any:
    """A value of the domain, every one equally likely; on a logarithmic scale where the domain has one."""
    if domain.kind == "choice":
        return draws.choice(domain.values)
    return from_unit(domain, draws.random())


def to_unit(domain: Domain, value: float) -> float:
    """Where a number lies between the ends of its range: from 0 to 1, by its logarithm where the domain has one."""
    low, high = _scaled(domain, domain.values[0]), _scaled(domain, domain.values[1])
    return (_scaled(domain, value) - low) / (high - low)


def from_unit(domain: Domain, share: float) -> Any:
    """The value at this share of the range; the inverse of `to_unit`, but for steps and whole numbers."""
    low, high = domain.values[:2]
    if "log" in domain.kind:
        return fitted(domain, low * (high / low) ** share)
    if domain.kind == "randint":
        # Every whole number gets an equal part of the range.
        return min(low + int(share * (high - low + 1)), high)
    return fitted(domain, low + share * (high - low))


def fitted(domain: Domain, number: float) -> Any:
    """The nearest number that the domain has."""
    low, high = domain.values[:2]
    number = min(max(number, low), high)
    if domain.kind == "randint":
        return round(number)
    if len(domain.values) == 2:
        return float(number)
    return at_step(domain, min(round((number - low) / domain.values[2]), last_step(domain)))


def _step(domain: Domain) -> float | None:
    if domain.kind == "randint":
        return 1
    return domain.values[2] if len(domain.values) == 3 else None


def _scaled(domain: Domain, value: float) -> float:
    return math.log(value) if "log" in domain.kind else value

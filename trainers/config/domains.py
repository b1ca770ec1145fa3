"""What the domains of a search space allow: their values, and which keys count where some are conditional."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tuneyard.trainers.config.search import Domain
from tuneyard.trainers.errors import ConfigError, nearest

Space = Mapping[str, Domain]


def allowed_values(domain: Domain) -> list[Any] | None:
    """Every value in order; None where there is no end of them."""
    match domain.kind:
        case "choice":
            return domain.values
        case "uniform" | "loguniform":
            return None
        case "randint":
            low, high = domain.values
            return list(range(low, high + 1))
        case _:
            return [at_step(domain, index) for index in range(last_step(domain) + 1)]


def last_step(domain: Domain) -> int:
    """How many whole steps a quantized range holds."""
    low, high, step = (Decimal(str(value)) for value in domain.values)
    return int((high - low) // step)


def at_step(domain: Domain, index: int) -> Any:
    """The low end and so many steps. As decimals, so that 0.3 is 0.3 and not three times 0.1, which is more."""
    low, _, step = (Decimal(str(value)) for value in domain.values)
    return int(low + index * step) if domain.kind == "qrandint" else float(low + index * step)


def contains(domain: Domain, value: Any) -> bool:
    """Is this one of the domain's values?

    A choice must be the same in JSON, since to Python 1, 1.0 and true are equal; of numbers 1 is as good as 1.0, but a
    whole number must be one.
    """
    if domain.kind == "choice":
        return as_text(value) in [as_text(choice) for choice in domain.values]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if domain.kind in ("randint", "qrandint") and not isinstance(value, int):
        return False
    low, high = domain.values[:2]
    if not low <= value <= high:
        return False
    if domain.kind not in ("quniform", "qloguniform", "qrandint"):
        return True
    index = min(round((value - low) / domain.values[2]), last_step(domain))
    return bool(abs(at_step(domain, index) - value) <= 1e-9 * max(abs(low), abs(high)))


def described(domain: Domain) -> str:
    """The values in words."""
    if domain.kind == "choice":
        return ", ".join(as_text(choice) for choice in domain.values)
    low, high, *step = domain.values
    whole = "a whole number " if domain.kind in ("randint", "qrandint") else ""
    return f"{whole}from {low:g} to {high:g}" + (f" in steps of {step[0]:g}" if step else "")


def as_text(value: Any) -> str:
    """The value as JSON, by which values are compared."""
    return json.dumps(value, sort_keys=True)


def is_active(domain: Domain, values: Mapping[str, Any]) -> bool:
    """Does the key count in a trial with these values? Its parents must be among them where they count themselves."""
    return all(key in values and as_text(values[key]) in _texts(wanted) for key, wanted in domain.when.items())


def _texts(wanted: Any) -> list[str]:
    return [as_text(value) for value in (wanted if isinstance(wanted, list) else [wanted])]


def parents_first(space: Space) -> list[str]:
    """The keys in the space's order, but each after those that its `when` names.

    Raises ConfigError where conditions go round in a circle, or name a key that is not of the space.
    """
    ordered: list[str] = []
    for key in space:
        _visit(space, key, (), ordered)
    return ordered


def _visit(space: Space, key: str, path: tuple[str, ...], ordered: list[str]) -> None:
    if key in path:
        circle = " -> ".join((*path[path.index(key) :], key))
        raise ConfigError(f"tune.space.{key}.when: the conditions go round in a circle ({circle}); take one away.")
    if key in ordered:
        return
    for parent in space[key].when:
        if parent not in space:
            raise ConfigError(f"tune.space.{key}.when: {parent!r} is not a key of tune.space.")
        _visit(space, parent, (*path, key), ordered)
    ordered.append(key)


def active_only(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the keys that count, in the space's order; keys that are not of the space are left out."""
    active: dict[str, Any] = {}
    for key in parents_first(space):
        if key in values and is_active(space[key], active):
            active[key] = values[key]
    return {key: active[key] for key in space if key in active}


def with_parents(space: Space, point: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values, and for each parent that they leave out the first value beside which they count.

    None where no value of a parent lets all of them count.
    """
    full = dict(point)
    for parent in reversed(parents_first(space)):
        wanted = [space[child].when[parent] for child in full if parent in space[child].when]
        if parent in full or not wanted:
            continue
        first = wanted[0] if isinstance(wanted[0], list) else [wanted[0]]
        fitting = [value for value in first if all(as_text(value) in _texts(other) for other in wanted)]
        if not fitting:
            return None
        full[parent] = fitting[0]
    return full


def point_problems(space: Space, point: Mapping[str, Any], *, whole: bool) -> list[str]:
    """What keeps these values from being a point of the space, a sentence each; `whole`: no key may be missing."""
    problems = [_unknown(space, key) for key in point if key not in space]
    problems += [
        f"{key}: given {point[key]!r}; allowed: {described(domain)}."
        for key, domain in space.items()
        if key in point and not contains(domain, point[key])
    ]
    if problems:
        return problems
    idle = [key for key in point if any(_excluded(wanted, point, key) for key, wanted in space[key].when.items())]
    problems += [
        f"{key}: does not count beside the other values; leave it out (tune.space.{key}.when)." for key in idle
    ]
    if not idle and with_parents(space, point) is None:
        problems.append(f"{', '.join(point)}: never count together (tune.space, `when`); leave some out.")
    if whole:
        problems += [f"{key}: missing." for key in _missing(space, point)]
    return problems


def _unknown(space: Space, key: str) -> str:
    near = nearest(key, space)
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{key}: unknown key.{guess} Allowed: {', '.join(space)}."


def _excluded(wanted: Any, point: Mapping[str, Any], parent: str) -> bool:
    return parent in point and as_text(point[parent]) not in _texts(wanted)


def _missing(space: Space, point: Mapping[str, Any]) -> list[str]:
    active: dict[str, Any] = {}
    missing = []
    for key in parents_first(space):
        if not is_active(space[key], active):
            continue
        if key in point:
            active[key] = point[key]
        else:
            missing.append(key)
    return missing

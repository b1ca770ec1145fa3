"""What cannot be searched: told before a sweep starts, without importing a searcher."""

from typing import Any

from tuneyard.trainers.config.domains import (
    Space,
    allowed_values,
    as_text,
    contains,
    described,
    parents_first,
    point_problems,
)
from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.trainers.errors import ConfigError, choose_from
from tuneyard.trainers.names import is_user_reference

SEARCHES = ("random", "grid", "tpe", "gp", "cmaes")
"""The names of `tune.search`, beside the user's own."""


def check_search(tune: TuneConfig) -> None:
    """Raise ConfigError with everything that `search_problems` finds."""
    problems = search_problems(tune)
    if problems:
        raise ConfigError("\n".join(problems))


def search_problems(tune: TuneConfig) -> list[str]:
    """What is wrong with the conditions, the points, or the searcher for this space; a sentence each."""
    problems = condition_problems(tune.space)
    if problems:
        return problems  # without them in order nothing else can be told
    if not is_user_reference(tune.search) and tune.search not in SEARCHES:
        problems.append(choose_from("tune.search", tune.search, [*SEARCHES, "task.py:MySearch"]))
    if tune.metric in tune.objectives:
        problems.append(f"tune.objectives.{tune.metric}: is tune.metric already; leave it out here.")
    for place, point in enumerate(tune.points):
        problems += [f"tune.points.{place}.{problem}" for problem in point_problems(tune.space, point, whole=False)]
    if tune.search == "grid":
        problems += _grid_problems(tune.space)
    if tune.search == "cmaes":
        problems += _cmaes_problems(tune)
    return problems


def condition_problems(space: Space) -> list[str]:
    """What is wrong with `when` in any of the domains."""
    problems = []
    for key, domain in space.items():
        for parent, wanted in domain.when.items():
            where = f"tune.space.{key}.when"
            if parent not in space:
                problems.append(choose_from(f"{where} (a key of tune.space)", parent, space))
            else:
                values = wanted if isinstance(wanted, list) else [wanted]
                problems += _value_problems(f"{where}.{parent}", space[parent], values)
    if not problems:
        try:
            parents_first(space)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _value_problems(where: str, parent: Domain, values: list[Any]) -> list[str]:
    if "uniform" in parent.kind and parent.kind != "quniform":
        return [f"{where}: {parent.kind} has no values that come up again; allowed: a key with choices or steps."]
    if not values:
        return [f"{where}: no value is given; allowed: {described(parent)}."]
    return [
        f"{where}: given {as_text(value)}; allowed: {described(parent)}." for value in values
        if not contains(parent, value)
    ]  # fmt: skip


def _grid_problems(space: Space) -> list[str]:
    return [
        f"tune.space.{key}: {domain.kind} has no end of values, and tune.search is grid; give choice, randint or a "
        "quantized range, or search: tpe."
        for key, domain in space.items()
        if allowed_values(domain) is None
    ]


def _cmaes_problems(tune: TuneConfig) -> list[str]:
    problems = []
    if tune.objectives:
        problems.append("tune.objectives: tune.search cmaes knows one objective; give search: tpe, gp or random.")
    if any(domain.when for domain in tune.space.values()):
        problems.append("tune.search: cmaes cannot search keys with `when`; give tpe, gp or random.")
    if sum(domain.kind != "choice" for domain in tune.space.values()) < 2:
        problems.append("tune.search: cmaes needs two keys that are numbers, not choices; give tpe, gp or random.")
    return problems

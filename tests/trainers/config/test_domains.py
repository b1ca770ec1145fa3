"""Which values a domain has, and which keys count beside which values."""

from typing import Any

import pytest

from tuneyard.trainers.config.domains import active_only, allowed_values, contains, parents_first, point_problems
from tuneyard.trainers.config.search import Domain
from tuneyard.trainers.errors import ConfigError

CONDITIONAL = {
    "momentum": Domain(uniform=[0.0, 1.0], when={"name": "sgd"}),
    "name": Domain(choice=["sgd", "adamw"]),
    "nesterov": Domain(choice=[True, False], when={"name": "sgd", "momentum_on": True}),
    "momentum_on": Domain(choice=[True, False], when={"name": ["sgd"]}),
}


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Domain(choice=[1, "1", None]), [1, "1", None], [1.0, True, "2"]),
        (Domain(uniform=[0.0, 1.0]), [0, 0.5, 1.0], [-0.1, 1.1, True, "0.5", None]),
        (Domain(randint=[1, 3]), [1, 2, 3], [0, 4, 2.0, True]),
        (Domain(quniform=[0.0, 1.0, 0.3]), [0.0, 0.3, 0.9], [0.5, 1.0]),
        (Domain(qrandint=[16, 64, 16]), [16, 48], [17, 32.0, 80]),
    ],
)
def test_a_domain_contains_its_values_and_no_others(domain: Domain, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in inside if not contains(domain, value)] == []
    assert [value for value in outside if contains(domain, value)] == []


def test_a_domain_without_steps_has_no_end_of_values() -> None:
    assert allowed_values(Domain(uniform=[0.0, 1.0])) is None
    assert allowed_values(Domain(quniform=[0.0, 0.3, 0.1])) == [0.0, 0.1, 0.2, 0.3]


def test_parents_come_before_the_keys_that_depend_on_them() -> None:
    assert parents_first(CONDITIONAL) == ["name", "momentum", "momentum_on", "nesterov"]


def test_a_circle_of_conditions_is_told() -> None:
    space = {
        "a": Domain(choice=[1, 2], when={"b": 1}),
        "b": Domain(choice=[1, 2], when={"a": 1}),
    }
    with pytest.raises(ConfigError, match="go round in a circle"):
        parents_first(space)


def test_a_key_whose_parent_does_not_count_does_not_count_itself() -> None:
    values = {"name": "adamw", "momentum_on": True, "nesterov": True, "momentum": 0.5}
    assert active_only(CONDITIONAL, values) == {"name": "adamw"}
    assert set(active_only(CONDITIONAL, values | {"name": "sgd"})) == set(CONDITIONAL)


@pytest.mark.parametrize(
    ("point", "whole", "problem"),
    [
        ({"nme": "sgd"}, False, "nme: unknown key. Did you mean 'name'?"),
        ({"name": "adam"}, False, 'name: given \'adam\'; allowed: "sgd", "adamw"'),
        ({"name": "adamw", "momentum": 0.5}, False, "momentum: does not count beside the other values"),
        ({"name": "sgd", "momentum_on": False}, True, "momentum: missing"),
    ],
)
def test_what_keeps_values_from_being_a_point(point: dict[str, Any], whole: bool, problem: str) -> None:
    assert problem in "\n".join(point_problems(CONDITIONAL, point, whole=whole))


def test_a_whole_point_has_only_the_keys_that_count() -> None:
    assert point_problems(CONDITIONAL, {"name": "adamw"}, whole=True) == []
    assert point_problems(CONDITIONAL, {"momentum": 0.5}, whole=False) == []

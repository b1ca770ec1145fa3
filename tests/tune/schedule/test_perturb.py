"""Values moved a little: within their bounds, on their steps, and only those that count."""

from random import Random
from typing import Any

import pytest

from tuneyard.trainers.config.domains import contains
from tuneyard.trainers.config.search import Domain
from tuneyard.tune.schedule.perturb import Perturbation, from_unit, moved, sample, to_unit

DOMAINS = {
    "uniform": Domain(uniform=[-1.0, 1.0]),
    "loguniform": Domain(loguniform=[1e-4, 1e-1]),
    "quniform": Domain(quniform=[0.0, 1.0, 0.1]),
    "qloguniform": Domain(qloguniform=[1.0, 100.0, 3.0]),
    "randint": Domain(randint=[2, 9]),
    "qrandint": Domain(qrandint=[4, 20, 4]),
    "choice": Domain(choice=[1, 1.0, "a", [0.9, 0.99]]),
}


def all_moves(domain: Domain, value: Any, times: int = 200) -> list[Any]:
    return [moved(domain, value, Random(seed)) for seed in range(times)]


@pytest.mark.parametrize("kind", DOMAINS)
def test_what_is_drawn_or_moved_stays_in_the_domain(kind: str) -> None:
    domain = DOMAINS[kind]
    value = sample(domain, Random(0))
    for seed in range(200):
        value = moved(domain, value, Random(seed))
        assert contains(domain, value), value


def test_a_number_is_mostly_multiplied_by_one_of_two_factors() -> None:
    found = all_moves(DOMAINS["loguniform"], 0.01)
    down, up = (sum(value == pytest.approx(expected) for value in found) for expected in (0.008, 0.012))
    assert 50 < down < 100
    assert 50 < up < 100
    assert 25 < len(found) - down - up < 75  # drawn anew: a quarter of 200


def test_a_number_at_its_bound_stays_there() -> None:
    assert max(all_moves(DOMAINS["loguniform"], 0.1)) == 0.1


@pytest.mark.parametrize(("kind", "value", "neighbours"), [("randint", 3, {2, 4}), ("qrandint", 8, {4, 12})])
def test_a_whole_number_moves_by_a_step_where_the_factor_is_too_little(
    kind: str, value: int, neighbours: set[int]
) -> None:
    found = all_moves(DOMAINS[kind], value)
    assert sum(other in neighbours for other in found) > 130


def test_a_choice_moves_to_a_neighbour() -> None:
    found = all_moves(DOMAINS["choice"], "a")
    assert sum(isinstance(value, list | float) for value in found) > 150
    # 1 and 1.0 are two choices: the neighbour of 1.0 on the other side is "a".
    assert sum(value == "a" for value in all_moves(DOMAINS["choice"], 1.0)) > 60


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_share_of_the_range_and_its_value_are_each_others_inverse(kind: str) -> None:
    for share in (0.0, 0.25, 1.0):
        assert to_unit(DOMAINS[kind], from_unit(DOMAINS[kind], share)) == pytest.approx(share)
    assert from_unit(DOMAINS["loguniform"], 1 / 3) == pytest.approx(1e-3)


def test_every_whole_number_has_an_equal_part_of_the_range() -> None:
    found = [from_unit(DOMAINS["randint"], (index + 0.5) / 80) for index in range(80)]
    assert [found.count(number) for number in range(2, 10)] == [10] * 8


def test_keys_that_do_not_count_are_left_out_and_new_ones_are_drawn() -> None:
    space = {
        "data.augment": Domain(choice=[["HorizontalFlip"]]),
        "optimizer.lr": Domain(uniform=[0.1, 1.0], when={"optimizer.momentum": 0.5}),
        "optimizer.momentum": Domain(choice=[0.5]),
        "optimizer.weight_decay": Domain(uniform=[0.1, 1.0], when={"optimizer.momentum": 0.9}),
    }
    found = Perturbation(space).explore(
        {"optimizer.momentum": 0.5, "data.augment": ["HorizontalFlip"]}, 3, [], Random(0)
    )
    assert list(found) == ["data.augment", "optimizer.lr", "optimizer.momentum"]

"""Successive halving against examples that were worked out by hand, and whole sweeps over simulated curves."""

import math
from typing import Any

import pytest

from tests.tune.simulated import play, replayed
from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.schedule.halving import rung_epochs
from tuneyard.tune.schedule.scheduler import NextLeg, Scheduler

SPACE = {"x": Domain(uniform=[0.0, 1.0])}


def scheduler(epochs: int = 9, **settings: Any) -> Scheduler:
    return build_scheduler(TuneConfig.model_validate({"space": SPACE, "reduction_factor": 2} | settings), epochs)


def at_rung(halving: Scheduler, values: dict[str, float], epoch: int = 1) -> None:
    """Runs that begin, come to this rung with these values, and wait there."""
    for run_id, value in values.items():
        halving.began(run_id, {})
        if halving.goes_on(run_id, epoch, value):
            halving.paused(run_id, epoch)
        else:
            halving.gone(run_id)


def promoted(halving: Scheduler, *, exhausted: bool = False) -> list[str]:
    """Who goes on now, one after the other."""
    found = iter(lambda: halving.next_leg(exhausted=exhausted), None)
    return [leg.run_id for leg in found if isinstance(leg, NextLeg)]


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(1, 3, 28, [1, 3, 9, 27]), (1, 3, 27, [1, 3, 9]), (2, 2, 9, [2, 4, 8]), (1, 3, 1, []), (5, 3, 5, [])],
)
def test_rungs_stand_at_grace_times_powers_of_the_factor_below_the_last_epoch(
    grace: int, factor: int, epochs: int, expected: list[int]
) -> None:
    assert rung_epochs(grace, factor, epochs) == expected


def test_a_run_pauses_at_the_next_rung_and_after_the_last_one_not_before_its_end() -> None:
    halving = scheduler(epochs=9)
    halving.began("a", {})
    assert [halving.leg_end("a", epoch) for epoch in (0, 1, 3, 4, 8)] == [1, 2, 4, 8, None]


def test_with_fewer_than_the_factor_at_a_rung_nobody_goes_on() -> None:
    halving = scheduler(reduction_factor=3)
    at_rung(halving, {"a": 0.5, "b": 0.9})
    assert promoted(halving) == []
    at_rung(halving, {"c": 0.1})
    assert promoted(halving) == ["b"]


def test_one_in_factor_goes_on_the_best_first() -> None:
    halving = scheduler()
    at_rung(halving, {"a": 0.1, "b": 0.7, "c": 0.8, "d": 0.2, "e": 0.3})
    assert promoted(halving) == ["c", "b"]
    assert promoted(halving) == []


def test_with_mode_min_the_lowest_go_on() -> None:
    halving = scheduler(mode="min")
    at_rung(halving, {"a": 0.5, "b": 0.2, "c": 0.3, "d": 0.9})
    assert promoted(halving) == ["b", "c"]


def test_a_run_that_was_not_among_the_best_goes_on_once_worse_ones_have_come() -> None:
    halving = scheduler()
    at_rung(halving, {"a": 0.5, "b": 0.6})
    assert promoted(halving) == ["b"]
    at_rung(halving, {"c": 0.1, "d": 0.2})
    assert promoted(halving) == ["a"]


def test_the_highest_rung_goes_first() -> None:
    halving = scheduler()
    at_rung(halving, {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6})
    assert promoted(halving) == ["a", "b"]
    at_rung(halving, {"a": 0.5, "b": 0.4}, epoch=2)
    at_rung(halving, {"e": 0.95, "f": 0.96})
    assert promoted(halving) == ["a", "f", "e"]


def test_equal_values_go_on_in_the_order_in_which_their_runs_began() -> None:
    halving = scheduler()
    for run_id in "abcd":
        halving.began(run_id, {})
    at_rung(halving, dict.fromkeys("dbca", 0.5))
    assert promoted(halving) == ["a", "b"]


def test_the_best_value_so_far_counts() -> None:
    halving = scheduler(grace_epochs=2)
    at_rung(halving, {"a": 0.5, "b": 0.4}, epoch=1)
    at_rung(halving, {"a": 0.1, "b": 0.45}, epoch=2)
    assert promoted(halving) == ["a"]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_ends_its_run_which_counts_as_the_worst(mode: str, value: float) -> None:
    halving = scheduler(mode=mode)
    halving.began("a", {})
    assert not halving.goes_on("a", 1, value)
    halving.gone("a")
    at_rung(halving, {"b": 0.1})
    assert promoted(halving) == ["b"]
    assert promoted(halving, exhausted=True) == []


def test_a_run_that_diverges_between_two_rungs_counts_at_the_one_it_was_on_its_way_to() -> None:
    halving = scheduler()
    at_rung(halving, {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6})
    assert promoted(halving) == ["a", "b"]
    at_rung(halving, {"a": 0.9}, epoch=2)
    assert promoted(halving) == []
    assert not halving.goes_on("b", 2, math.nan)
    assert promoted(halving) == ["a"]


def test_a_run_that_has_gone_is_not_promoted_and_still_counts() -> None:
    halving = scheduler()
    at_rung(halving, {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6})
    halving.gone("a")
    assert promoted(halving) == ["b"]


def test_with_nothing_else_to_come_the_best_goes_on_until_one_run_has_all_its_epochs() -> None:
    halving = scheduler(epochs=4)
    at_rung(halving, {"a": 0.4})
    assert promoted(halving) == []
    assert halving.next_leg(exhausted=True) == NextLeg("a")
    at_rung(halving, {"a": 0.5}, epoch=2)
    assert halving.next_leg(exhausted=True) == NextLeg("a")
    assert [halving.goes_on("a", epoch, 0.5) for epoch in (3, 4)] == [True, True]
    halving.gone("a")
    at_rung(halving, {"b": 0.3})
    # Two at the first rung, and "a" is the best of them: so "b" waits on, since one has been trained to its end.
    assert halving.next_leg(exhausted=True) is None


def test_a_run_with_fewer_epochs_of_its_own_has_completed_at_their_end() -> None:
    halving = scheduler(epochs=9, reduction_factor=3)
    halving.began("a", {"train.epochs": 2})
    assert halving.goes_on("a", 2, 0.5)
    halving.gone("a")
    at_rung(halving, {"b": 0.9})
    assert halving.next_leg(exhausted=True) is None


def test_a_searched_number_of_epochs_sets_the_rungs_by_the_longest() -> None:
    halving = scheduler(epochs=1, space={"train.epochs": Domain(choice=[2, 9, 4])})
    assert halving.leg_end("a", 4) == 8


def test_a_run_that_was_paused_where_there_is_no_rung_any_more_goes_on_to_the_next_one() -> None:
    halving = scheduler(grace_epochs=4)
    at_rung(halving, {"a": 0.1}, epoch=2)
    assert promoted(halving) == ["a"]
    assert halving.leg_end("a", 2) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_a_sweep_trains_about_one_in_factor_of_each_rung_further(workers: int) -> None:
    curves = {f"{number:04d}": [(number * 10 % 27) / 27 + epoch / 1000 for epoch in range(9)] for number in range(27)}
    reached = play(scheduler(reduction_factor=3), curves, workers=workers)
    # Of 27 at the first rung 9 are the best, of whom 3 at the second; those that looked good too early come on top.
    assert len(reached) == 27
    assert 9 <= sum(epochs >= 3 for epochs in reached.values()) <= 13
    assert 3 <= sum(epochs == 9 for epochs in reached.values()) <= 6
    best = max(curves, key=lambda run_id: curves[run_id][0])
    assert reached[best] == 9


def test_hyperband_gives_every_bracket_the_same_epochs() -> None:
    hyperband = scheduler(scheduler="hyperband", reduction_factor=3, epochs=27)
    first: dict[int | None, int] = {}
    for number in range(1000):
        hyperband.began(str(number), {})
        end = hyperband.leg_end(str(number), 0)
        first[end] = first.get(end, 0) + 1
    # Epochs that a run costs: 1 + 2/3 + 6/9 + 18/27 = 3, 3 + 6/3 + 18/9 = 7, 9 + 18/3 = 15, and 27.
    spent = [first[1] * 3, first[3] * 7, first[9] * 15, first[None] * 27]
    assert max(spent) - min(spent) <= 27


def test_hyperband_ranks_each_bracket_by_itself() -> None:
    hyperband = scheduler(scheduler="hyperband", epochs=2)
    for run_id in "abcdef":
        hyperband.began(run_id, {})
    first = [run_id for run_id in "abcdef" if hyperband.leg_end(run_id, 0) == 1]
    others = [run_id for run_id in "abcdef" if hyperband.leg_end(run_id, 0) is None]
    assert len(first) >= 2
    assert others
    for run_id in others:
        hyperband.goes_on(run_id, 1, 0.9)
    at_rung(hyperband, {first[0]: 0.1, first[1]: 0.2})
    assert promoted(hyperband) == [first[1]]


@pytest.mark.parametrize("name", ["asha", "hyperband"])
def test_a_resumed_sweep_goes_on_as_the_uninterrupted_one(name: str) -> None:
    curves = {f"{number:04d}": [(number * 37 % 23) / 23 + epoch / 50 for epoch in range(9)] for number in range(23)}
    whole, resumed = replayed(lambda: scheduler(scheduler=name), curves, events=60)
    assert resumed == whole
    assert len(whole) > 5


def test_asking_about_a_run_that_did_not_begin_deals_it_to_no_bracket() -> None:
    hyperband, other = (scheduler(scheduler="hyperband") for _ in range(2))
    for number in range(8):
        hyperband.leg_end("", 0)
        hyperband.began(str(number), {})
        other.began(str(number), {})
    assert [hyperband.leg_end(str(number), 0) for number in range(8)] == [
        other.leg_end(str(number), 0) for number in range(8)
    ]


def test_over_all_brackets_the_highest_rung_goes_first() -> None:
    hyperband = scheduler(scheduler="hyperband", epochs=4)
    for run_id in "abcdefgh":
        hyperband.began(run_id, {})
    low, high = ([run_id for run_id in "abcdefgh" if hyperband.leg_end(run_id, 0) == rung][:2] for rung in (1, 2))
    at_rung(hyperband, {low[0]: 0.9, low[1]: 0.8})
    at_rung(hyperband, {high[0]: 0.2, high[1]: 0.1}, epoch=2)
    assert promoted(hyperband) == [high[0], low[0]]

"""Median stopping, and no scheduling at all."""

import math
from typing import Any

import pytest

from tests.tune.simulated import play, replayed
from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.schedule.scheduler import NextLeg, Scheduler

OTHERS = {"a": [0.2, 0.4], "b": [0.3, 0.5], "c": [0.4, 0.6]}
"""Running averages after two epochs: 0.3, 0.4, 0.5."""


def scheduler(name: str = "median", **settings: Any) -> Scheduler:
    space = {"x": Domain(uniform=[0.0, 1.0])}
    return build_scheduler(TuneConfig.model_validate({"space": space, "scheduler": name} | settings), 9)


def told(median: Scheduler, curves: dict[str, list[float]]) -> list[bool]:
    """The answers to these epochs, the first of which is epoch 1."""
    answers = []
    for run_id, values in curves.items():
        median.began(run_id, {})
        answers += [median.goes_on(run_id, epoch, value) for epoch, value in enumerate(values, start=1)]
    return answers


@pytest.mark.parametrize(("values", "expected"), [([0.3, 0.39], False), ([0.3, 0.4], True), ([0.41, 0.1], True)])
def test_a_run_whose_best_value_is_below_the_median_of_the_averages_stops(values: list[float], expected: bool) -> None:
    median = scheduler()
    told(median, OTHERS)
    assert told(median, {"d": values}) == [True, expected]


def test_with_mode_min_a_run_whose_best_value_is_above_it_stops() -> None:
    median = scheduler(mode="min")
    told(median, OTHERS)
    assert told(median, {"d": [0.3, 0.41]}) == [True, True]
    assert told(median, {"e": [0.45, 0.42]}) == [False, False]


def test_with_fewer_than_three_others_at_an_epoch_nobody_stops() -> None:
    median = scheduler()
    told(median, {"a": [0.9, 0.9], "b": [0.9, 0.9], "c": [0.9]})
    assert told(median, {"d": [0.1, 0.1]}) == [False, True]


def test_before_the_grace_epochs_nobody_stops() -> None:
    median = scheduler(grace_epochs=2)
    told(median, OTHERS)
    assert told(median, {"d": [0.01, 0.02]}) == [True, False]


def test_a_run_that_was_stopped_still_counts() -> None:
    median = scheduler()
    told(median, {"a": [0.1], "b": [0.9], "c": [0.9]})
    median.gone("a")
    assert told(median, {"d": [0.8]}) == [False]


def test_a_value_that_is_not_finite_ends_its_run_and_counts_for_no_other() -> None:
    median = scheduler()
    assert told(median, {"a": [math.nan], "b": [0.9], "c": [0.9]}) == [False, True, True]
    assert told(median, {"d": [0.1]}) == [True]  # three others, but only two with a value


def test_nobody_pauses() -> None:
    median = scheduler()
    median.began("a", {})
    assert median.leg_end("a", 0) is None
    assert median.next_leg(exhausted=True) is None


@pytest.mark.parametrize("name", ["median", "none"])
def test_a_run_that_another_scheduler_paused_goes_on_to_its_end(name: str) -> None:
    median = scheduler(name)
    told(median, {"a": [0.5], "b": [0.4]})
    for run_id in "ab":
        median.paused(run_id, 1)
    median.gone("a")
    assert median.next_leg(exhausted=False) == NextLeg("b")
    assert median.next_leg(exhausted=False) is None


def test_a_resumed_sweep_goes_on_as_the_uninterrupted_one() -> None:
    curves = {f"{number:04d}": [(number * 7 % 11) / 11 + epoch / 50 for epoch in range(9)] for number in range(11)}
    whole, resumed = replayed(scheduler, curves, events=20)
    assert resumed == whole


def test_without_scheduling_every_run_has_all_its_epochs_but_one_that_diverged() -> None:
    curves = {"a": [0.1] * 9, "b": [0.9] * 4 + [math.nan] * 5, "c": [0.5] * 9}
    assert play(scheduler("none"), curves, workers=2) == {"a": 9, "b": 5, "c": 9}

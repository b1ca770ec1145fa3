"""Successive halving against examples that were worked out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from tuneyard.trainers.experiment import Domain, TuneConfig
from tuneyard.tune.asha import Asha, Rungs

METRIC = "val/accuracy"


def rungs(factor: int = 2, mode: str = "max", epochs: int = 9, grace: int = 1) -> Rungs:
    return Rungs(grace=grace, factor=factor, epochs=epochs, mode=mode)


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(1, 3, 28, [1, 3, 9, 27]), (1, 3, 27, [1, 3, 9]), (2, 2, 9, [2, 4, 8]), (1, 3, 1, []), (5, 3, 5, [])],
)
def test_rungs_stand_at_grace_times_powers_of_the_factor_below_the_last_epoch(
    grace: int, factor: int, epochs: int, expected: list[int]
) -> None:
    assert rungs(factor, epochs=epochs, grace=grace).epochs == expected


def test_one_in_factor_goes_on_from_a_rung() -> None:
    first = rungs(factor=3)
    # Best so far: always on. 1st of 2, 2nd of 3: only the best. With six there, the two best.
    arrivals = [("a", 0.5, True), ("b", 0.4, False), ("c", 0.6, True), ("d", 0.3, False), ("e", 0.2, False)]
    assert [first.goes_on(trial, 1, value) for trial, value, _ in arrivals] == [on for *_, on in arrivals]
    assert first.goes_on("f", 1, 0.55)
    assert not first.goes_on("g", 1, 0.52)


def test_with_mode_min_the_lowest_go_on() -> None:
    first = rungs(mode="min")
    assert first.goes_on("a", 1, 0.5)
    assert not first.goes_on("b", 1, 0.6)
    assert first.goes_on("c", 1, 0.4)


def test_between_rungs_and_at_the_last_epoch_every_trial_goes_on() -> None:
    first = rungs(factor=3, epochs=9)
    first.goes_on("a", 3, 0.9)
    assert first.goes_on("b", 2, 0.1)
    assert first.goes_on("b", 9, 0.1)


def test_each_rung_has_its_own_ranking() -> None:
    first = rungs(factor=2, epochs=9)
    first.goes_on("a", 1, 0.9)
    assert first.goes_on("b", 2, 0.1)
    assert not first.goes_on("c", 2, 0.05)


def test_equal_values_go_on_together() -> None:
    first = rungs()
    assert [first.goes_on(trial, 1, 0.5) for trial in "abcd"] == [True] * 4
    assert not first.goes_on("e", 1, 0.49)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_its_trial_and_holds_up_no_other(mode: str, value: float) -> None:
    first = rungs(mode=mode)
    assert not first.goes_on("a", 1, value)
    assert first.goes_on("b", 1, 0.1)


def test_a_trial_that_reports_a_rung_twice_counts_once() -> None:
    first = rungs(factor=2)
    for _ in range(4):
        first.goes_on("a", 1, 0.5)
    # Two at the rung, so one goes on; counted five times, two of them would.
    assert not first.goes_on("b", 1, 0.4)


def scheduler(epochs: int = 9) -> Asha:
    config = TuneConfig(metric=METRIC, reduction_factor=2, space={"x": Domain(choice=[1, 2])})
    return Asha(config, epochs)


def report(asha: Asha, run_id: str, epoch: int, value: float) -> str:
    trial: Any = SimpleNamespace(config={"run_id": run_id})
    return asha.on_trial_result(None, trial, {"epoch": epoch, METRIC: value})


def test_the_scheduler_remembers_whom_it_stopped() -> None:
    asha = scheduler()
    assert [report(asha, "0001", 1, 0.5), report(asha, "0002", 1, 0.4)] == ["CONTINUE", "STOP"]
    assert asha.stopped == {"0002"}


def test_trials_of_before_count_at_the_rungs_that_they_reached() -> None:
    asha = scheduler()
    asha.learn("0001", [{"epoch": 1, METRIC: 0.5}, {"epoch": 2, METRIC: 0.6}])
    assert report(asha, "0002", 1, 0.4) == "STOP"
    assert report(asha, "0003", 2, 0.55) == "STOP"
    assert report(asha, "0004", 4, 0.1) == "CONTINUE"
    assert asha.stopped == {"0002", "0003"}


def test_a_result_without_the_metric_decides_nothing() -> None:
    asha = scheduler()
    asha.learn("0001", [{"epoch": 1}])
    trial: Any = SimpleNamespace(config={"run_id": "0002"})
    assert asha.on_trial_result(None, trial, {"interrupted": True}) == "CONTINUE"
    assert report(asha, "0003", 1, 0.1) == "CONTINUE"

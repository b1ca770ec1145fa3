"""Trials of different lengths on one scale."""

import math

import pytest

from tuneyard.tune.search.standing import running_best, standings


def test_the_running_best_leaves_out_what_is_not_a_number() -> None:
    found = running_best([math.nan, 0.5, math.inf, 0.4, 0.9], "max")
    assert math.isnan(found[0])
    assert found[1:] == [0.5, 0.5, 0.5, 0.9]
    assert running_best([0.5, 0.7, 0.1], "min") == [0.5, 0.5, 0.1]


def test_trials_of_one_length_stand_by_their_best_value() -> None:
    assert standings([(0.1, 0.9, 0.8), (0.2, 0.3, 0.4)], "max") == [0.9, 0.4]


def test_a_short_trial_gains_what_the_nearest_that_went_further_gained() -> None:
    longer = [(0.50, 0.80), (0.51, 0.81), (0.52, 0.82), (0.10, 0.90), (0.11, 0.91), (0.12, 0.92)]
    assert standings([*longer, (0.515,)], "max")[-1] == pytest.approx(0.815)
    assert standings([*longer, (0.1,)], "max")[-1] == pytest.approx(0.9)


def test_a_trial_without_a_number_stands_nowhere() -> None:
    assert standings([(), (math.nan,), (0.5,)], "min") == [None, None, 0.5]

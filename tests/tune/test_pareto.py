"""The front, and the order of the points behind it."""

import math

import numpy as np

from tuneyard.tune.pareto import best_first, pareto_front


def test_the_front_is_what_no_other_point_beats() -> None:
    points = [(0.9, 10.0), (0.8, 20.0), (0.7, 15.0), (0.9, 5.0)]
    assert pareto_front(points, ["max", "max"]) == [0, 1]
    assert pareto_front(points, ["max", "min"]) == [3]


def test_equal_points_are_all_in_the_front() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)], ["min", "max"]) == [0, 1]


def test_points_that_are_not_finite_never_are() -> None:
    assert pareto_front([(math.nan, 1.0), (math.inf, 9.0), (0.1, 0.1)], ["max", "max"]) == [2]
    assert pareto_front([], ["max"]) == []


def test_the_order_goes_front_by_front_and_keeps_the_ends() -> None:
    losses = np.array([[2.0, 2.0], [0.0, 1.0], [1.0, 0.0], [0.49, 0.5], [0.5, 0.49], [3.0, 3.0]])
    order = best_first(losses).tolist()
    assert set(order[:2]) == {1, 2}
    assert order[4:] == [0, 5]

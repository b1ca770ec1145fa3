"""Orders that are a function of their keys."""

import numpy as np

from tuneyard.trainers.data.sample_order import permutation


def test_every_position_comes_once() -> None:
    assert sorted(permutation(1000, 0, 0)) == list(range(1000))


def test_seed_epoch_and_purpose_each_change_the_order() -> None:
    orders = [permutation(50, *keys).tolist() for keys in ((0, 0), (1, 0), (0, 1), (0, 0, "split"))]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_pinned() -> None:
    # A run that is resumed under another version of NumPy must go on in the same order.
    assert permutation(8, 7, 3).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]


def test_no_place_is_preferred() -> None:
    mean = np.mean([permutation(10, 0, epoch) for epoch in range(2000)], axis=0)
    assert np.all(np.abs(mean - 4.5) < 0.35)  # five deviations of the mean

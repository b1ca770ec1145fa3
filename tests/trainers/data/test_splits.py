"""Validation splits: sizes, balance, groups, and the cases that cannot work."""

from typing import Any

import numpy as np
import pytest

from tuneyard.trainers.config.data import ValidationConfig
from tuneyard.trainers.data.dataset import Samples
from tuneyard.trainers.data.splits import Split, draw_split
from tuneyard.trainers.errors import DataError


def samples(labels: Any, groups: Any = None, folds: Any = None) -> Samples:
    labels = np.asarray(labels, dtype=np.int64)
    images = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    return Samples(images, labels, [str(index) for index in range(len(labels))], groups, folds)


def draw(data: Samples, **config: Any) -> Split:
    return draw_split(data, ValidationConfig(**config), int(data.labels.max()) + 1)


def assert_partition(split: Split, count: int) -> None:
    assert np.all(np.diff(split.train) > 0)
    assert np.all(np.diff(split.validation) > 0)
    assert sorted([*split.train, *split.validation]) == list(range(count))


def test_a_stratified_share_holds_out_the_same_share_of_each_class() -> None:
    data = samples([0] * 500 + [1] * 100 + [2] * 50)
    split = draw(data, split=0.2)
    assert_partition(split, 650)
    assert np.bincount(data.labels[split.validation]).tolist() == [100, 20, 10]


def test_a_random_share_has_its_size() -> None:
    split = draw(samples([0, 1] * 50), split=0.25, by="random")
    assert_partition(split, 100)
    assert len(split.validation) == 25


def test_a_share_of_few_samples_holds_out_at_least_one() -> None:
    assert len(draw(samples([0, 0, 1, 1]), split=0.01).validation) == 1


def test_a_class_of_one_sample_stays_in_training() -> None:
    split = draw(samples([0] * 50 + [1]), split=0.5)
    assert 50 in split.train


@pytest.mark.parametrize("by", ["random", "stratified"])
def test_folds_cover_every_sample_once(by: str) -> None:
    data = samples(np.arange(103) % 3)
    held_out = [draw(data, folds=5, fold=fold, by=by).validation for fold in range(5)]
    assert sorted(np.concatenate(held_out)) == list(range(103))
    assert {len(each) for each in held_out} <= {20, 21}


def test_stratified_folds_share_each_class_out_evenly() -> None:
    data = samples([0] * 52 + [1] * 23)
    for fold in range(5):
        counts = np.bincount(data.labels[draw(data, folds=5, fold=fold).validation], minlength=2)
        assert counts[0] in (10, 11)
        assert counts[1] in (4, 5)


def test_the_seed_decides_the_draw() -> None:
    data = samples([0, 1] * 100)
    same = [draw(data, split=0.1, seed=3).validation.tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert draw(data, split=0.1, seed=4).validation.tolist() != same[0]


def test_the_draw_is_pinned() -> None:
    # A change here would move samples between training and validation of runs that are resumed or compared.
    assert draw(samples([0, 1] * 10), split=0.2).validation.tolist() == [6, 17, 18, 19]


def grouped(seed: int = 0) -> Samples:
    """200 samples of 3 classes in 40 groups of very different sizes."""
    rng = np.random.default_rng(seed)
    return samples(rng.integers(0, 3, 200), groups=np.array([f"g{index}" for index in rng.geometric(0.08, 200) % 40]))


@pytest.mark.parametrize("config", [{"split": 0.2}, {"folds": 4, "fold": 1}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_group_is_on_both_sides(config: dict[str, Any], seed: int) -> None:
    data = grouped(seed)
    split = draw(data, by="group", group_column="patient", seed=seed, **config)
    assert_partition(split, 200)
    assert data.groups is not None
    assert not set(data.groups[split.train]) & set(data.groups[split.validation])


def test_group_folds_cover_every_sample_once_and_are_alike() -> None:
    rng = np.random.default_rng(0)
    data = samples(rng.integers(0, 3, 600), groups=rng.integers(0, 60, 600))
    held_out = [draw(data, by="group", group_column="p", folds=5, fold=fold).validation for fold in range(5)]
    assert sorted(np.concatenate(held_out)) == list(range(600))
    for each in held_out:
        assert np.all(np.abs(np.bincount(data.labels[each]) - np.bincount(data.labels) / 5) < 8)


def test_a_group_share_is_near_what_was_asked_for_in_each_class() -> None:
    rng = np.random.default_rng(0)
    data = samples(rng.integers(0, 3, 600), groups=rng.integers(0, 60, 600))
    held_out = draw(data, by="group", group_column="p", split=0.3).validation
    assert np.all(np.abs(np.bincount(data.labels[held_out]) / np.bincount(data.labels) - 0.3) < 0.06)


def test_the_given_fold_is_held_out() -> None:
    split = draw(samples([0, 1, 0, 1], folds=np.array([2, 0, 0, 2])), fold_column="part", fold=2)
    assert split.validation.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("data", "config", "message"),
    [
        (samples([0, 1, 0, 1]), {"folds": 5}, "folds is 5, but there are only 4 samples"),
        (samples([0, 0, 0, 1]), {"folds": 2, "fold": 1}, "Class 1 has no training sample: all 1"),
        (samples([0, 1]), {"split": 0.5}, "validation set is empty"),
        (samples([0, 1]), {"by": "group", "group_column": "p"}, "no groups"),
        (samples([0, 1], groups=np.array(["a", "a"])), {"by": "group", "group_column": "p"}, "only 1 groups"),
        (
            samples([0, 1] * 4, groups=np.array(list("aaaabbbb"))),
            {"by": "group", "group_column": "p", "folds": 3},
            "only 2 groups",
        ),
        (
            samples([0, 1] * 4, groups=np.array(list("aaaabbbb"))),
            {"by": "group", "group_column": "p", "split": 0.1},
            "No group .* is small enough",
        ),
        (samples([0, 1]), {"fold_column": "part"}, "the data has no folds"),
        (samples([0, 1], folds=np.array([0, 1])), {"fold_column": "part", "fold": 7}, "fold is 7, but .* only 0, 1"),
        (samples([0, 1], folds=np.array([0, 0])), {"fold_column": "part"}, "training set is empty"),
        (
            samples([0, 1, 0, 1], groups=np.array(list("abab")), folds=np.array([0, 0, 1, 1])),
            {"by": "group", "group_column": "p", "fold_column": "part"},
            r"Group a is on both sides of the split \(2 such groups\)",
        ),
    ],
)
def test_splits_that_cannot_be_drawn(data: Samples, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(data, **config)

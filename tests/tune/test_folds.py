"""Folds together: their mean, when a trial is not worth its other folds, and the predictions of all of them."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from tests.tune.records import store_at, write_run
from tuneyard.trainers.errors import DataError, MissingKeyError
from tuneyard.trainers.predictions import Predictions, write_predictions
from tuneyard.trainers.record import read_run, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.folds import cannot_win, collect_out_of_fold

BEST = {0: 0.90, 1: 0.92, 2: 0.91, 3: 0.93, 4: 0.90}


def worse(folds: int, by: float = 0.01) -> dict[int, float]:
    """The best trial's first folds, each worse by a little more than the one before."""
    return {fold: BEST[fold] - by * (fold + 1) for fold in range(folds)}


@pytest.mark.parametrize(("folds", "dropped"), [(1, False), (2, False), (3, True), (5, True)])
def test_at_a_level_of_a_fifth_three_worse_folds_are_needed(folds: int, dropped: bool) -> None:
    assert cannot_win(worse(folds), BEST, mode="max", p_value=0.2) is dropped


@pytest.mark.parametrize(("folds", "dropped"), [(3, False), (4, True)])
def test_a_stricter_level_needs_more_folds(folds: int, dropped: bool) -> None:
    assert cannot_win(worse(folds), BEST, mode="max", p_value=0.1) is dropped


def test_for_a_loss_the_higher_one_is_dropped() -> None:
    higher = {fold: value + 0.01 * (fold + 1) for fold, value in BEST.items()}
    assert cannot_win(higher, BEST, mode="min", p_value=0.2)
    assert not cannot_win(worse(5), BEST, mode="min", p_value=0.2)


def test_worse_in_some_folds_and_better_in_others_goes_on() -> None:
    mixed = {0: 0.80, 1: 0.93, 2: 0.92, 3: 0.90}
    assert not cannot_win(mixed, BEST, mode="max", p_value=0.2)


def test_behind_on_hard_folds_only_it_may_still_have_the_better_mean() -> None:
    best = {0: 0.95, 1: 0.95, 2: 0.95, 3: 0.10}
    behind = {0: 0.90, 1: 0.91, 2: 0.92}
    assert not cannot_win(behind, best, mode="max", p_value=0.2)
    assert cannot_win(behind, {fold: best[fold] for fold in range(3)}, mode="max", p_value=0.2)


def test_equal_folds_and_ties_are_no_reason_to_drop() -> None:
    assert not cannot_win(BEST, BEST, mode="max", p_value=0.2)
    assert not cannot_win({0: 0.90, 1: 0.92, 2: 0.90}, BEST, mode="max", p_value=0.2)


def test_folds_that_only_one_has_are_not_compared() -> None:
    assert not cannot_win({5: 0.1, 6: 0.1, 7: 0.1}, BEST, mode="max", p_value=0.2)


def test_a_value_that_is_not_finite_is_not_judged_here() -> None:
    assert not cannot_win({0: 0.1, 1: 0.1, 2: math.nan}, BEST, mode="max", p_value=0.2)


def write_fold(
    store: Store, prefix: str, indices: list[int], *, classes: int = 3, right: bool = True, fingerprint: str = "a"
) -> None:
    """A run whose predictions of these samples are all right, or all wrong; the label is the position modulo 2."""
    write_run(store, prefix, [0.5], fingerprint=fingerprint)
    labels = np.array(indices) % 2
    probabilities = np.full((len(indices), classes), 0.1, dtype=np.float32)
    probabilities[np.arange(len(indices)), labels if right else 1 - labels] = 0.8
    write_predictions(store, prefix, Predictions(np.array(indices), probabilities, labels, step=10))


def test_the_folds_predictions_are_joined_by_position_in_the_pool(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_fold(store, "a/", [1, 4, 5])
    write_fold(store, "b/", [0, 2, 3], right=False)
    together = collect_out_of_fold(store, {0: "a/", 1: "b/"}, "all/out_of_fold.npz")
    assert (together.accuracy, together.covered, together.pool) == (0.5, 6, 60_000)
    arrays = np.load(io.BytesIO(store.get("all/out_of_fold.npz")), allow_pickle=False)
    assert arrays["indices"].tolist() == [0, 1, 2, 3, 4, 5]
    assert arrays["fold"].tolist() == [1, 0, 1, 1, 0, 0]
    assert arrays["labels"].tolist() == [0, 1, 0, 1, 0, 1]
    assert (arrays["probabilities"].argmax(axis=1) == arrays["labels"]).tolist() == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert arrays["probabilities"].dtype == np.float32


def test_a_sample_that_two_folds_held_out_is_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_fold(store, "a/", [1, 4, 5])
    write_fold(store, "b/", [0, 4, 5])
    with pytest.raises(DataError, match=r"Sample 4 was held out by fold 0 and by fold 1 \(2 such samples\)"):
        collect_out_of_fold(store, {0: "a/", 1: "b/"}, "out_of_fold.npz")
    assert not store.exists("out_of_fold.npz")


def test_folds_of_different_data_or_classes_are_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_fold(store, "a/", [0])
    write_fold(store, "b/", [1], classes=4)
    with pytest.raises(DataError, match="fold 0 has 3, fold 1 has 4"):
        collect_out_of_fold(store, {0: "a/", 1: "b/"}, "out_of_fold.npz")
    record = read_run(store, "b/")
    assert record.data is not None
    changed = record.data.model_copy(update={"fingerprint": "other"})
    write_record(store, "b/", record.model_copy(update={"data": changed}))
    with pytest.raises(DataError, match="trained on different data"):
        collect_out_of_fold(store, {0: "a/", 1: "b/"}, "out_of_fold.npz")


def test_a_fold_without_predictions_says_how_to_keep_them(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    with pytest.raises(MissingKeyError, match=r"a/predictions\.npz.* data\.validation\.predictions: true"):
        collect_out_of_fold(store, {0: "a/"}, "out_of_fold.npz")

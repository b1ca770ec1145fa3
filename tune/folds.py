"""Cross-validation over several runs: the mean of a trial's folds, which trials it pays to go on with, all predictions.

Knows of records and stores, and nothing of Ray.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuneyard.trainers.errors import DataError
from tuneyard.trainers.predictions import Predictions, join_shares, read_predictions, to_npz
from tuneyard.trainers.record import read_run
from tuneyard.trainers.stores.store import Store

LEAST_FOLDS = 2
"""Below two common folds there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The predictions of all folds together, each sample's by the one model that was not trained on it.

    Attributes:
        key: of `out_of_fold.npz` in the store.
        accuracy: over all covered samples, not the mean of the folds' accuracies.
        covered: samples with a prediction.
        pool: samples that training and validation have together.
    """

    key: str
    accuracy: float
    covered: int
    pool: int


def cannot_win(
    candidate: Mapping[int, float], best: Mapping[int, float], *, mode: Literal["min", "max"], p_value: float
) -> bool:
    """Is the candidate, by its folds so far, behind the best trial at this level? Then its other folds are spared.

    Both are fold -> value. Wilcoxon's signed-rank test (1945), one-sided, over the folds that both have, by the rules
    of Optuna's WilcoxonPruner: it takes two common folds; a candidate whose mean over its folds is at least as good as
    the best's over all of its own goes on, whatever the test says; so does one with a value that is not finite, which
    is for others to judge. As n folds that all are worse give p = 1 / 2^n, a level of 0.2 first drops after three
    folds, 0.1 after four. The test is repeated after each fold: over a whole trial an equal candidate is dropped
    somewhat more often than `p_value` says.
    """
    common = sorted(candidate.keys() & best.keys())
    if len(common) < LEAST_FOLDS or not all(map(math.isfinite, [*candidate.values(), *best.values()])):
        return False
    sign = 1.0 if mode == "max" else -1.0
    if sign * statistics.fmean(candidate.values()) >= sign * statistics.fmean(best.values()):
        return False
    from scipy.stats import wilcoxon  # half a second, that most sweeps never need

    differences = [sign * (candidate[fold] - best[fold]) for fold in common]
    # The automatic method is exact for so few folds: from tables, or by every permutation where values are tied.
    found = wilcoxon(differences, alternative="less", zero_method="zsplit", method="auto")
    return bool(found.pvalue < p_value)


def collect_out_of_fold(store: Store, run_prefixes: Mapping[int, str], out_key: str) -> OutOfFold:
    """Join the predictions of the folds' runs (fold -> prefix) into one npz at `out_key`, by position in the pool.

    The file holds indices int64 [n], probabilities float32 [n, classes], labels int64 [n] and fold int64 [n].
    Raises MissingKeyError where a run kept no predictions, DataError where the runs do not belong together: other data,
    other classes, or a sample that two folds held out.
    """
    if not run_prefixes:
        raise DataError("There are no folds to join: give the prefix of at least one run.")
    folds = sorted(run_prefixes)
    pool = _pool_size(store, run_prefixes)
    parts = [read_predictions(store, run_prefixes[fold]) for fold in folds]
    _check_classes(dict(zip(folds, parts, strict=True)))
    joined = join_shares(parts)
    fold_of = np.repeat(np.array(folds, np.int64), [len(part.indices) for part in parts])
    fold_of = fold_of[np.argsort(np.concatenate([part.indices for part in parts]), kind="stable")]
    twice = np.flatnonzero(joined.indices[1:] == joined.indices[:-1])
    if len(twice):
        one, other = fold_of[twice[0] : twice[0] + 2]
        raise DataError(
            f"Sample {joined.indices[twice[0]]} was held out by fold {one} and by fold {other} ({len(twice)} such "
            "samples): these runs are not folds of one split. Give runs of one cross-validation."
        )
    content = to_npz(
        indices=joined.indices, probabilities=joined.probabilities, labels=joined.labels, fold=fold_of
    )  # fmt: skip
    store.put(out_key, content)
    return OutOfFold(key=out_key, accuracy=joined.accuracy, covered=len(joined.indices), pool=pool)


def _check_classes(parts: Mapping[int, Predictions]) -> None:
    classes = {fold: part.probabilities.shape[1] for fold, part in parts.items()}
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"fold {fold} has {count}" for fold, count in classes.items())
        raise DataError(f"The folds were trained on different numbers of classes: {counts}. Give runs of one data set.")


def _pool_size(store: Store, run_prefixes: Mapping[int, str]) -> int:
    """How many samples the pool has; DataError where the runs saw different data."""
    found = {fold: read_run(store, prefix).data for fold, prefix in run_prefixes.items()}
    known = {fold: data for fold, data in found.items() if data is not None}
    if len({data.fingerprint for data in known.values()}) > 1:
        raise DataError(
            f"Folds {', '.join(map(str, sorted(known)))} were trained on different data (by fingerprint): their "
            "predictions cannot be joined. Train all folds on the same data."
        )
    return max((data.train + data.validation for data in known.values()), default=0)

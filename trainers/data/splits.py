"""Which samples of the pool are for training and which for validation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneyard.trainers.config.data import ValidationConfig
from tuneyard.trainers.data.dataset import Samples
from tuneyard.trainers.data.sample_order import permutation
from tuneyard.trainers.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Split:
    """Positions in the pool, int64, sorted; no position is in both."""

    train: Array
    validation: Array


def draw_split(samples: Samples, config: ValidationConfig, n_classes: int) -> Split:
    """The split that `config` asks for; the same for the same samples and `config.seed`, whatever the training seed.

    Raises DataError where the data does not allow it: too few samples or groups, an empty side, a class that would have
    no training sample, a group on both sides.
    """
    held_out = _held_out(samples, config, n_classes)
    split = Split(train=np.flatnonzero(~held_out), validation=np.flatnonzero(held_out))
    for side, positions in (("training", split.train), ("validation", split.validation)):
        if len(positions) == 0:
            raise DataError(
                f"The {side} set is empty: {_asked(config)} of {len(samples)} samples. Change data.validation."
            )
    counts = np.bincount(samples.labels[split.train], minlength=n_classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        raise DataError(
            f"Class {missing[0]} has no training sample: all {np.sum(samples.labels == missing[0])} of its samples "
            "were held out. Add samples, leave the class out, or change data.validation."
        )
    if config.by == "group" and samples.groups is not None:
        _check_groups(samples.groups, split)
    return split


def _asked(config: ValidationConfig) -> str:
    if config.fold_column is not None:
        return f"fold {config.held_out_fold} of column {config.fold_column}"
    if config.folds is not None:
        return f"fold {config.held_out_fold} of {config.folds}"
    return f"a share of {config.share:g}"


def _held_out(samples: Samples, config: ValidationConfig, n_classes: int) -> Array:
    """bool [n]: is this sample for validation?"""
    if config.fold_column is not None:
        return _given_fold(samples, config)
    if config.folds is not None and config.folds > len(samples):
        raise DataError(f"data.validation.folds is {config.folds}, but there are only {len(samples)} samples.")
    if config.by == "group":
        return _by_group(samples, config, n_classes)
    order = permutation(len(samples), config.seed, 0, "split")
    # Without stratification all samples are of one class, as far as the draw is concerned.
    strata = samples.labels if config.by == "stratified" else np.zeros(len(samples), dtype=np.int64)
    held_out = np.zeros(len(samples), dtype=bool)
    if config.folds is not None:
        # Sorted by stratum and dealt out like cards: each fold gets its share of each, and sizes differ by one at most.
        dealt = order[np.argsort(strata[order], kind="stable")]
        held_out[dealt[config.held_out_fold :: config.folds]] = True
        return held_out
    counts = np.bincount(strata, minlength=1)
    for stratum, quota in enumerate(_quotas(counts, config.share)):
        held_out[order[strata[order] == stratum][:quota]] = True
    return held_out


def _quotas(counts: Array, share: float) -> Array:
    """int64, one for each stratum: how many to hold out, in all the rounded share (Hamilton's method of apportionment).

    A stratum keeps at least one sample for training.
    """
    exact = counts * share
    quotas = np.floor(exact).astype(np.int64)
    rest = max(round(float(exact.sum())), 1) - int(quotas.sum())
    for stratum in np.argsort(quotas - exact, kind="stable")[:rest]:
        quotas[stratum] += 1
    kept: Array = np.minimum(quotas, np.maximum(counts - 1, 0))
    return kept


def _given_fold(samples: Samples, config: ValidationConfig) -> Array:
    if samples.folds is None:
        raise DataError(f"data.validation.fold_column is {config.fold_column}, but the data has no folds.")
    held_out: Array = samples.folds == config.held_out_fold
    if not held_out.any():
        found = ", ".join(str(fold) for fold in np.unique(samples.folds))
        raise DataError(
            f"data.validation.fold is {config.held_out_fold}, but column {config.fold_column} has only {found}."
        )
    return held_out


def _by_group(samples: Samples, config: ValidationConfig, n_classes: int) -> Array:
    if samples.groups is None:
        raise DataError(
            f"data.validation.by is group, but the data has no groups (group_column: {config.group_column})."
        )
    names, member = np.unique(samples.groups, return_inverse=True)
    if len(names) < (config.folds or 2):
        raise DataError(
            f"data.validation asks for {_asked(config)} by group, but column {config.group_column} has only "
            f"{len(names)} groups. Use fewer folds, or another column."
        )
    counts = np.zeros((len(names), n_classes))
    np.add.at(counts, (member, samples.labels), 1.0)
    # Each class counts the same, however common it is.
    shares = counts / np.maximum(counts.sum(axis=0), 1.0)
    order = permutation(len(names), config.seed, 0, "split")
    if config.folds is not None:
        chosen = _group_folds(shares, order, config.folds) == config.held_out_fold
    else:
        chosen = _group_share(shares, order, config.share)
        if not chosen.any():
            raise DataError(
                f"No group of column {config.group_column} is small enough for a share of {config.share:g}. "
                "Use a larger data.validation.split, or folds."
            )
    return np.asarray(chosen[member])


def _group_folds(shares: Array, order: Array, folds: int) -> Array:
    """int64 [groups]: the fold of each group. Largest group first, to the fold that lacks its classes most.

    The greedy rule of longest processing time (Graham 1969), over classes. shares: [groups, classes], columns sum to 1.
    """
    sizes = shares.sum(axis=1)
    filled = np.zeros((folds, shares.shape[1]))
    fold_of = np.zeros(len(shares), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        # The squared distance to equal folds grows least where `filled`, weighted by the group's classes, is smallest.
        fold = int(np.argmin(filled @ shares[group]))
        filled[fold] += shares[group]
        fold_of[group] = fold
    return fold_of


def _group_share(shares: Array, order: Array, share: float) -> Array:
    """bool [groups]: held out? In random order, every group that brings each class's share nearer to `share`."""
    filled = np.zeros(shares.shape[1])
    chosen = np.zeros(len(shares), dtype=bool)
    for group in order:
        after = filled + shares[group]
        if np.sum((after - share) ** 2) < np.sum((filled - share) ** 2):
            filled = after
            chosen[group] = True
    return chosen


def _check_groups(groups: Array, split: Split) -> None:
    shared = np.intersect1d(groups[split.train], groups[split.validation])
    if len(shared):
        raise DataError(
            f"Group {shared[0]} is on both sides of the split ({len(shared)} such groups). "
            "Give all samples of a group the same fold."
        )

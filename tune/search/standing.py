"""Where trials stand that trained for different numbers of epochs.

Successive halving leaves most trials after a few epochs. Few have a final value, and values after different numbers of
epochs do not compare: to rank by the last value is to prefer the long-trained, and to look at one rung alone (BOHB,
Falkner et al., ICML 2018) leaves out most of what was paid for. Here each trial gets the value that it would end with.
The trials that trained longest have theirs; from there down, a trial is given the gain of those that went further
from about the same value at the same epoch.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import numpy as np

NEIGHBOURS = 3
Mode = Literal["min", "max"]


def running_best(values: Sequence[float], mode: Mode) -> list[float]:
    """The best value up to each epoch; NaN before the first. What is not finite counts for nothing."""
    better = max if mode == "max" else min
    best: list[float] = []
    for value in values:
        before = best[-1] if best else math.nan
        best.append(before if not math.isfinite(value) else value if math.isnan(before) else better(value, before))
    return best


def standings(trials: Sequence[Sequence[float]], mode: Mode) -> list[float | None]:
    """For each trial, given its values after each epoch, the value to compare it by; None where it has none."""
    curves = [running_best(values, mode) for values in trials]
    final: list[float | None] = [None] * len(curves)
    known: list[int] = []
    places = [place for place, curve in enumerate(curves) if curve and not math.isnan(curve[-1])]
    places.sort(key=lambda place: (-len(curves[place]), place))
    for epoch, group in groupby(places, key=lambda place: len(curves[place])):
        members = list(group)
        peers = [place for place in known if not math.isnan(curves[place][epoch - 1])]
        here = np.array([curves[place][epoch - 1] for place in peers])
        gains = np.array([final[place] for place in peers], dtype=float) - here
        for place, gain in zip(members, _nearest_mean(here, gains, [curves[p][-1] for p in members]), strict=True):
            final[place] = curves[place][-1] + gain
        known += members
    return final


def _nearest_mean(at: np.ndarray, gains: np.ndarray, asked: Sequence[float]) -> list[float]:
    """The mean gain of the nearest few to each value; 0 where there are none."""
    if not len(at):
        return [0.0] * len(asked)
    order = np.argsort(at, kind="stable")
    at, gains, values = at[order], gains[order], np.asarray(asked)
    # The nearest few lie among as many on either side of the value's own place in the order.
    window = np.searchsorted(at, values)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS)
    inside = (window >= 0) & (window < len(at))
    window = np.clip(window, 0, len(at) - 1)
    distances = np.where(inside, np.abs(at[window] - values[:, None]), np.inf)
    chosen = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    usable = np.isfinite(np.take_along_axis(distances, chosen, axis=1))
    nearest = np.where(usable, np.take_along_axis(gains[window], chosen, axis=1), 0.0)
    return list((nearest.sum(axis=1) / usable.sum(axis=1)).tolist())

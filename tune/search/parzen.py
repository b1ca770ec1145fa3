"""A density over the unit cube of a search space: a mixture of kernels around rows of places.

The kernels are those of Watanabe, "Tree-structured Parzen estimator" (arXiv 2304.11127): Gaussians cut off at the ends
of the range, their mass in a value's own part of the range where values are countable, and Aitchison and Aitken's for
choices. A product over the axes makes a kernel; one more, which is flat or nearly so, keeps every point possible. On an
axis that does not count in a kernel's own row the kernel is flat, and an axis that does not count in a point adds
nothing to its density, so that conditional keys need no model of their own.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from tuneyard.tune.search.unit_cube import Axis, Floats

NARROWEST = 100.0
"""No kernel is narrower than one part in so many of its range, or in the number of kernels."""


class Parzen:
    """The density around `rows`, an array of (rows, axes) with NaN for what does not count."""

    def __init__(self, axes: Sequence[Axis], rows: Floats, weights: Floats | None = None) -> None:
        self._axes, count = axes, len(rows)
        own = np.ones(count) if weights is None else weights
        # The last kernel is the prior: centred, and as wide as the range.
        self._weights = np.append(own, 1.0)
        self._weights = self._weights / self._weights.sum()
        self._rows = np.vstack([rows, np.full((1, len(axes)), 0.5)])
        self._widths = np.vstack([np.stack([_widths(column) for column in rows.T], axis=1), np.ones((1, len(axes)))])

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """Rows drawn from the density, (size, axes): a place for every axis, whether it counts or not."""
        chosen = rng.choice(len(self._weights), size=size, p=self._weights)
        units = rng.random((size, len(self._axes)))
        drawn = np.empty_like(units)
        for index, axis in enumerate(self._axes):
            centre, unit = self._rows[chosen, index], units[:, index]
            if axis.ordered:
                places = _cut_gaussian(centre, self._widths[chosen, index], unit)
                prior = np.isnan(centre)
            else:
                keeps = rng.random(size) < self._certainty(axis)
                places = centre
                prior = ~keeps | np.isnan(centre) | (chosen == len(self._weights) - 1)
            drawn[:, index] = np.where(prior, unit, places)
        return drawn

    def log_density(self, rows: Floats) -> Floats:
        """The logarithm of the density at each row of (points, axes)."""
        logs = np.zeros((len(rows), len(self._weights)))
        for index, axis in enumerate(self._axes):
            places, centres = rows[:, index, None], self._rows[None, :, index]
            dense = (
                self._gaussian(axis, places, centres, self._widths[None, :, index])
                if axis.ordered
                else self._choice(axis, places, centres)
            )
            flat = 1.0 / axis.count if axis.count else 1.0
            dense = np.where(np.isnan(centres), flat, dense)
            logs += np.where(np.isnan(places), 0.0, np.log(np.maximum(dense, 1e-300)))
        logs += np.log(self._weights)
        top = logs.max(axis=1)
        return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(axis=1)))

    def _gaussian(self, axis: Axis, places: Floats, centres: Floats, widths: Floats) -> Floats:
        inside = ndtr((1.0 - centres) / widths) - ndtr(-centres / widths)
        if not axis.count:
            z = (places - centres) / widths
            return np.asarray(np.exp(-0.5 * z * z) / (np.sqrt(2.0 * np.pi) * widths * inside))
        half = 0.5 / axis.count
        return np.asarray(
            (ndtr((places + half - centres) / widths) - ndtr((places - half - centres) / widths)) / inside
        )

    def _choice(self, axis: Axis, places: Floats, centres: Floats) -> Floats:
        other = (1.0 - self._certainty(axis)) / axis.count
        same = np.abs(places - centres) < 0.5 / axis.count
        dense = np.where(same, self._certainty(axis) + other, other)
        dense[:, -1] = 1.0 / axis.count
        return dense

    def _certainty(self, axis: Axis) -> float:
        """How sure a kernel is of its own choice: the more rows, the surer; beside that all choices are alike."""
        count = len(self._weights) - 1
        return count / (count + axis.count)


def _widths(places: Floats) -> Floats:
    """The kernels' widths on one axis: to the farther of the two neighbours, which are the ends for a lone row."""
    count = len(places)
    widths = np.ones(count)
    there = np.flatnonzero(~np.isnan(places))
    order = there[np.argsort(places[there], kind="stable")]
    gaps = np.diff(np.concatenate([[0.0], places[order], [1.0]]))
    if len(order) > 1:
        # The outermost kernels look inwards: the way to the end says nothing about how close the rows lie.
        gaps[0] = gaps[-1] = 0.0
    widths[order] = np.maximum(gaps[:-1], gaps[1:])
    return np.asarray(np.clip(widths, 1.0 / min(NARROWEST, count + 2.0), 1.0))


def _cut_gaussian(centres: Floats, widths: Floats, units: Floats) -> Floats:
    """Gaussians inside 0 to 1, at these quantiles."""
    low, high = ndtr(-centres / widths), ndtr((1.0 - centres) / widths)
    return np.asarray(np.clip(centres + widths * ndtri(low + units * (high - low)), 0.0, 1.0))

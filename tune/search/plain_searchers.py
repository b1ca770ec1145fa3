"""The searchers that learn nothing: points given by the user, random ones, and every point of a grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuneyard.trainers.config.domains import as_text, with_parents
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.search.known_trials import TrialReader, point_key
from tuneyard.tune.search.searcher import Searcher, Tried
from tuneyard.tune.search.unit_cube import UnitCube
from tuneyard.tune.search.untried import first_untried
from tuneyard.tune.space import grid


class RandomSearcher:
    """Every trial drawn anew, each key as its domain says."""

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._cube = config, UnitCube(config.space)
        self._reader = TrialReader(config, self._cube)

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """A point that was not tried before; None when all of a finite space was."""
        return first_untried(self._config, self._reader.tried(trials), len(trials), self._cube.draw)


class GridSearcher:
    """Every point once, in order, those of `tune.points` first; a key that a point leaves out takes every value."""

    def __init__(self, config: TuneConfig) -> None:
        self._reader = TrialReader(config, UnitCube(config.space))
        first = [point for given in config.points for point in grid(config.space, fixed=given)]
        self._points = {point_key(point): point for point in [*first, *grid(config.space)]}

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The first point that was not tried yet, by this sweep or an earlier one."""
        tried = self._reader.tried(trials)
        return next((point for key, point in self._points.items() if key not in tried), None)


class PointsFirst:
    """Tries `tune.points` in their order, then what another searcher asks. Keys that a point leaves out are drawn."""

    def __init__(self, config: TuneConfig, then: Searcher) -> None:
        self._config, self._cube, self._then = config, UnitCube(config.space), then

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The first of the points that no trial has the values of, or what the other searcher asks."""
        for place, point in enumerate(self._config.points):
            if not any(_has(trial.overrides, point) for trial in trials):
                row = np.random.default_rng([self._config.seed, place]).random(len(self._cube.axes))
                return self._cube.point(row, fixed=with_parents(self._config.space, point))
        return self._then.ask(trials)


def _has(overrides: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    return all(key in overrides and as_text(overrides[key]) == as_text(value) for key, value in point.items())

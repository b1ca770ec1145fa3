"""What a searcher sees of the trials: those of its space, as rows of places, with the values they are compared by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneyard.trainers.config.domains import as_text
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.search.standing import standings
from tuneyard.tune.search.unit_cube import Floats, UnitCube


@dataclass(frozen=True, slots=True)
class Known:
    """The trials of the space that were given to a searcher.

    Attributes:
        rows: (trials, axes), their places in the unit cube.
        losses: (trials, objectives), lower is better; NaN where a trial has no result: it runs, or it failed.
    """

    rows: Floats
    losses: Floats

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which trials have a result, (trials,)."""
        return np.asarray(np.isfinite(self.losses).all(axis=1))

    def take(self, places: Sequence[int] | NDArray[Any]) -> "Known":
        """Some of the trials."""
        return Known(self.rows[places], self.losses[places])


class TrialReader:
    """Reads trials; keeps what it made of their values for the keys of the space, which never change."""

    def __init__(self, config: TuneConfig, cube: UnitCube) -> None:
        self._mode, self._cube = config.mode, cube
        self._signs = [1.0 if mode == "min" else -1.0 for mode in (config.mode, *config.objectives.values())]
        self._read: list[tuple[dict[str, Any], Floats | None, str]] = []

    def known(self, trials: Sequence[Tried]) -> Known:
        """The trials that are of the space; those that are not are passed over."""
        self._update(trials)
        read = [(row, trial) for trial, (_, row, _) in zip(trials, self._read, strict=False) if row is not None]
        rows = np.array([row for row, _ in read]).reshape(len(read), len(self._cube.axes))
        scores = standings([trial.values if trial.status != "failed" else () for _, trial in read], self._mode)
        losses = np.full((len(read), len(self._signs)), math.nan)
        for place, ((_, trial), score) in enumerate(zip(read, scores, strict=True)):
            if score is not None and len(trial.objectives) in (0, len(self._signs)):
                values = (score, *trial.objectives[1:])
                if len(values) == len(self._signs):
                    losses[place] = np.multiply(self._signs, values)
        return Known(rows, losses)

    def tried(self, trials: Sequence[Tried]) -> set[str]:
        """The points of this space that were tried, however they ended, as `point_key` writes them."""
        self._update(trials)
        return {key for _, row, key in self._read[: len(trials)] if row is not None}

    def _update(self, trials: Sequence[Tried]) -> None:
        for place, trial in enumerate(trials):
            if place < len(self._read) and self._read[place][0] == trial.overrides:
                continue
            del self._read[place:]
            row = self._cube.row(trial.overrides)
            self._read.append((trial.overrides, row, "" if row is None else point_key(self._cube.point(row))))


def random_first(config: TuneConfig) -> int:
    """A model of a handful of points misleads: a quarter of the sweep, at most ten trials, is drawn at random first."""
    return max(2, min(10, config.trials // 4))


def point_key(point: dict[str, Any]) -> str:
    """What tells a point from every other."""
    return as_text(point)

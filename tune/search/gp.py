"""Search with a Gaussian process, for few and costly trials."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.pareto import best_first
from tuneyard.tune.search.known_trials import Known, TrialReader, random_first
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.search.unit_cube import Axis, Floats, UnitCube
from tuneyard.tune.search.untried import first_untried

MOST = 120
"""Trials that the model sees, the best half of them and the newest: its cost grows with their number's cube."""


class GpSearcher:
    """Optuna's Gaussian process (Matern 5/2, log expected improvement; of several objectives the hypervolume's).

    It sees places in the unit cube; a key that does not count in a trial lies in the middle of its range. Trials
    without a result count as the worst one.
    """

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._cube = config, UnitCube(config.space)
        self._reader = TrialReader(config, self._cube)
        self._distributions = {axis.key: _distribution(axis) for axis in self._cube.axes}
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The next point; None when all of a finite space was tried."""
        known = self._reader.known(trials)

        def propose(rng: np.random.Generator) -> dict[str, Any]:
            if known.scored.sum() < random_first(self._config):
                return self._cube.draw(rng)
            return self._model(_most_telling(known), rng)

        return first_untried(self._config, self._reader.tried(trials), len(trials), propose)

    def _model(self, known: Known, rng: np.random.Generator) -> dict[str, Any]:
        seed = int(rng.integers(2**31))
        with warnings.catch_warnings():
            # It is experimental to Optuna, and says so every time.
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
            study = optuna.create_study(directions=["minimize"] * known.losses.shape[1], sampler=sampler)
            worst = known.losses[known.scored].max(axis=0)
            for row, losses, scored in zip(known.rows, known.losses, known.scored, strict=True):
                study.add_trial(
                    optuna.trial.create_trial(
                        params=self._params(row), distributions=self._distributions,
                        values=(losses if scored else worst).tolist(),
                    )
                )  # fmt: skip
            asked = study.ask(self._distributions).params
        places = [_place(axis, asked[axis.key]) for axis in self._cube.axes]
        return self._cube.point(np.array(places))

    def _params(self, row: Floats) -> dict[str, Any]:
        places = np.where(np.isnan(row), 0.5, row).tolist()
        return {
            axis.key: min(int(place * axis.count), axis.count - 1) if axis.count else place
            for axis, place in zip(self._cube.axes, places, strict=True)
        }


def _distribution(axis: Axis) -> BaseDistribution:
    if not axis.count:
        return FloatDistribution(0.0, 1.0)
    return IntDistribution(0, axis.count - 1) if axis.ordered else CategoricalDistribution(range(axis.count))


def _place(axis: Axis, param: float) -> float:
    return (param + 0.5) / axis.count if axis.count else param


def _most_telling(known: Known) -> Known:
    if len(known.rows) <= MOST:
        return known
    scored = np.flatnonzero(known.scored)
    best = scored[best_first(known.losses[scored])][: MOST // 2]
    others = np.setdiff1d(np.arange(len(known.rows)), best)
    return known.take(np.sort(np.concatenate([best, others[-(MOST - len(best)) :]])))

"""The default searcher: a tree-structured Parzen estimator."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneyard.trainers.experiment import TuneConfig
from tuneyard.tune.known_trials import Known, TrialReader
from tuneyard.tune.pareto import best_first
from tuneyard.tune.parzen import Parzen
from tuneyard.tune.searcher import Tried
from tuneyard.tune.unit_cube import UnitCube
from tuneyard.tune.untried import first_untried

GOOD_SHARE = 0.1
MOST_GOOD = 25
CANDIDATES = 64


def random_first(config: TuneConfig) -> int:
    """A model of a handful of points misleads: a quarter of the sweep, at most ten trials, is drawn at random first."""
    return max(2, min(10, config.trials // 4))


class TpeSearcher:
    """TPE (Bergstra et al., NeurIPS 2011): points that look more like the good trials than like all the others."""

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._cube = config, UnitCube(config.space)
        self._reader = TrialReader(config, self._cube)

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The next point; None when all of a finite space was tried."""
        known = self._reader.known(trials)

        def propose(rng: np.random.Generator) -> dict[str, Any]:
            if known.scored.sum() < random_first(self._config):
                return self._cube.draw(rng)
            return self._model(known, rng)

        return first_untried(self._config, self._reader.tried(trials), len(trials), propose)

    def _model(self, known: Known, rng: np.random.Generator) -> dict[str, Any]:
        scored = np.flatnonzero(known.scored)
        ranked = scored[best_first(known.losses[scored])]
        good = ranked[: min(math.ceil(GOOD_SHARE * len(ranked)), MOST_GOOD)]
        others = np.setdiff1d(np.arange(len(known.rows)), good)
        below = Parzen(self._cube.axes, known.rows[good])
        above = Parzen(self._cube.axes, known.rows[others])
        rows = self._cube.settled(below.sample(rng, CANDIDATES))
        return self._cube.point(rows[np.argmax(below.log_density(rows) - above.log_density(rows))])

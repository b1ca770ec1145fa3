"""The default searcher: a tree-structured Parzen estimator."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.pareto import best_first
from tuneyard.tune.search.known_trials import Known, TrialReader, random_first
from tuneyard.tune.search.parzen import Parzen
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.search.unit_cube import UnitCube
from tuneyard.tune.search.untried import first_untried

GOOD_SHARE = 0.1
MOST_GOOD = 25
CANDIDATES = 64
MOST = 400
"""Trials that the model sees."""


class TpeSearcher:
    """A tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) over all keys at once.

    It asks for the likeliest of a few points drawn around the good trials, by the ratio of two densities: of the best
    tenth of the trials (25 at most), and of all the others. Trials are compared by the value that they would end with
    (`standing.py`), of several objectives front by front. Those without a result, running or failed, are among the
    others, so that nobody asks for their neighbourhood twice. Of more than 400 trials the model sees the good ones and
    the newest others.
    """

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
        above = Parzen(self._cube.axes, known.rows[others[-MOST:]])
        rows = self._cube.settled(below.sample(rng, CANDIDATES))
        return self._cube.point(rows[np.argmax(below.log_density(rows) - above.log_density(rows))])

"""Search with CMA-ES, for many trials over numbers."""

from collections.abc import Sequence
from typing import Any

import cmaes
import numpy as np

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.search.known_trials import Known, TrialReader
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.search.unit_cube import Floats, UnitCube
from tuneyard.tune.search.untried import first_untried

SIGMA = 0.3
"""The first step's width, as a share of every range."""


class CmaEsSearcher:
    """CMA-ES (Hansen, arXiv 1604.00772), and CatCMA (Hamano et al., GECCO 2024) where there are choices too.

    Its state is not kept but made again from the trials: those with a result, in the order in which they were asked
    for, are told to it generation by generation, so that a resumed sweep asks what it would have asked. Of a trial that
    is still running it knows nothing; one that failed counts as the worst.
    """

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._cube = config, UnitCube(config.space)
        self._reader = TrialReader(config, self._cube)
        self._numbers = [place for place, axis in enumerate(self._cube.axes) if axis.ordered]
        self._choices = [place for place, axis in enumerate(self._cube.axes) if not axis.ordered and axis.count > 1]
        self._counts = [self._cube.axes[place].count for place in self._choices]

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The next point; None when all of a finite space was tried."""
        evolution = self._evolution(self._reader.known([trial for trial in trials if _ended(trial)]))

        def propose(rng: np.random.Generator) -> dict[str, Any]:
            evolution.reseed_rng(int(rng.integers(2**31)))
            return self._cube.point(self._row(evolution.ask()))

        return first_untried(self._config, self._reader.tried(trials), len(trials), propose)

    def _evolution(self, known: Known) -> cmaes.CMA | cmaes.CatCMA:
        """The state after every whole generation."""
        evolution = self._start()
        scored = known.losses[known.scored, 0]
        if not len(scored):
            return evolution
        losses = np.where(known.scored, known.losses[:, 0], scored.max()).tolist()
        told = [(self._solution(row), loss) for row, loss in zip(known.rows, losses, strict=True)]
        size = evolution.population_size
        for end in range(size, len(told) + 1, size):
            evolution.tell(told[end - size : end])
        return evolution

    def _start(self) -> cmaes.CMA | cmaes.CatCMA:
        mean, bounds = np.full(len(self._numbers), 0.5), np.array([[0.0, 1.0]] * len(self._numbers))
        if not self._choices:
            return cmaes.CMA(mean=mean, sigma=SIGMA, bounds=bounds, seed=0)
        return cmaes.CatCMA(mean=mean, sigma=SIGMA, bounds=bounds, cat_num=np.array(self._counts), seed=0)

    def _solution(self, row: Floats) -> Any:
        """A row as CMA-ES has it: its numbers, and for each choice a one among zeros."""
        numbers = row[self._numbers]
        if not self._choices:
            return numbers
        chosen = np.zeros((len(self._choices), max(self._counts)), dtype=bool)
        for index, (place, count) in enumerate(zip(self._choices, self._counts, strict=True)):
            chosen[index, int(row[place] * count)] = True
        return numbers, chosen

    def _row(self, solution: Any) -> Floats:
        numbers, chosen = solution if self._choices else (solution, ())
        row = np.full(len(self._cube.axes), 0.5)
        row[self._numbers] = numbers
        for place, count, ones in zip(self._choices, self._counts, chosen, strict=True):
            row[place] = (int(np.argmax(ones)) + 0.5) / count
        return row


def _ended(trial: Tried) -> bool:
    return trial.status == "failed" or bool(trial.values)

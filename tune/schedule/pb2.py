"""PB2 (Parker-Holder et al., arXiv 2002.02518): a population that explores by a model instead of by chance.

A Gaussian process over time and values is fitted to what each leg gained, and the new values are those whose upper
confidence bound is greatest. What legs gained long ago says less about the next one: the covariance falls with the time
between them (Bogunovic et al., arXiv 1601.06650). Knows nothing of Ray.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneyard.trainers.config.domains import active_only
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.schedule.perturb import Perturbation, from_unit, to_unit

Array = NDArray[np.float64]

FEWEST_LEGS, MOST_LEGS = 4, 200
CANDIDATES = 512
LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
FORGOTTEN = (0.0, 0.03, 0.1, 0.3)
NOISES = (0.03, 0.1, 0.3)


class GaussianProcessExplorer:
    """Chooses the numbers by the model; choices are moved as in population-based training.

    Until `FEWEST_LEGS` legs have shown a gain, the numbers are moved in that way too.
    """

    def __init__(self, config: TuneConfig) -> None:
        self._space, self._every = config.space, config.perturb_epochs
        self._perturbation = Perturbation(config.space)
        self._numbers = [key for key, domain in config.space.items() if domain.kind != "choice"]
        self._times: list[float] = []
        self._points: list[list[float]] = []
        self._gains: list[float] = []

    def learn(self, epoch: int, values: Mapping[str, Any], gain: float) -> None:
        """Keep the leg for the model, which sees the newest `MOST_LEGS`."""
        self._times.append(epoch / self._every)
        self._points.append(self._point(values))
        self._gains.append(gain)

    def explore(
        self, values: Mapping[str, Any], epoch: int, training: Sequence[tuple[int, Mapping[str, Any]]], draws: Random
    ) -> dict[str, Any]:
        """The values of the greatest upper confidence bound at this epoch; see `Explorer`."""
        found = self._perturbation.explore(values, epoch, training, draws)
        if len(self._gains) < FEWEST_LEGS or not self._numbers:
            return found
        # The order in which the others' legs came in must not matter: a resumed sweep hears of them run by run.
        legs = sorted(zip(self._times, self._points, self._gains, strict=True))[-MOST_LEGS:]
        process = GaussianProcess.fitted(
            np.array([time for time, _, _ in legs]), np.array([point for _, point, _ in legs]),
            np.array([gain for _, _, gain in legs]),
        )  # fmt: skip
        process = process.with_pending(
            np.array([start / self._every for start, _ in training]),
            np.array([self._point(other) for _, other in training]).reshape(len(training), len(self._numbers)),
        )
        candidates = self._candidates(self._point(values), draws)
        best = candidates[int(np.argmax(process.upper_bound(epoch / self._every, candidates)))]
        chosen = {key: from_unit(self._space[key], share) for key, share in zip(self._numbers, best, strict=True)}
        return active_only(self._space, found | chosen)

    def _point(self, values: Mapping[str, Any]) -> list[float]:
        """The numbers' places in their ranges; the middle for a key that was not searched in this run."""
        return [to_unit(self._space[key], values[key]) if key in values else 0.5 for key in self._numbers]

    def _candidates(self, around: Sequence[float], draws: Random) -> Array:
        """Points all over the ranges, and some near the copied member's, (n, numbers)."""
        random = np.random.default_rng(draws.getrandbits(64))
        anywhere = random.random((CANDIDATES, len(self._numbers)))
        near = np.array(around) + random.normal(0.0, 0.1, (CANDIDATES // 4, len(self._numbers)))
        candidates: Array = np.clip(np.concatenate([anywhere, near]), 0.0, 1.0)
        return candidates


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A posterior over gains. Covariance: exp(-|x-x'|² / 2 length²) · (1 - forgotten)^(|t-t'| / 2), plus noise.

    Attributes:
        times: (n,) in legs. points: (n, d) from 0 to 1. gains: (n,) with mean 0 and deviation 1.
    """

    times: Array
    points: Array
    gains: Array
    length: float
    forgotten: float
    noise: float

    @classmethod
    def fitted(cls, times: Array, points: Array, gains: Array) -> "GaussianProcess":
        """With the length, the forgetting and the noise of the greatest marginal likelihood, out of a small grid."""
        deviation = float(gains.std())
        gains = (gains - gains.mean()) / (deviation if deviation > 0 else 1.0)
        grid = [cls(times, points, gains, *three) for three in product(LENGTHS, FORGOTTEN, NOISES)]
        return max(grid, key=lambda process: process.log_likelihood())

    def log_likelihood(self) -> float:
        """Of the gains, but for a constant."""
        factor = np.linalg.cholesky(self._covariance())
        whitened = np.linalg.solve(factor, self.gains)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())

    def with_pending(self, times: Array, points: Array) -> "GaussianProcess":
        """As if these had gained just what is expected of them: so that not everybody goes to the same place.

        The mean stays as it is, and the uncertainty near them falls (Desautels et al., JMLR 2014).
        """
        if not len(times):
            return self
        mean, _ = self.predict(times, points)
        return GaussianProcess(
            np.concatenate([self.times, times]), np.concatenate([self.points, points]),
            np.concatenate([self.gains, mean]), self.length, self.forgotten, self.noise,
        )  # fmt: skip

    def predict(self, times: Array, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the gain at (m,) times and (m, d) points."""
        factor = np.linalg.cholesky(self._covariance())
        cross = self._kernel(self.times, self.points, times, points)
        solved = np.linalg.solve(factor, cross)
        return solved.T @ np.linalg.solve(factor, self.gains), np.maximum(1.0 - (solved**2).sum(axis=0), 0.0)

    def upper_bound(self, time: float, points: Array) -> Array:
        """Mean plus √β deviations at one time, with β = 0.2 d log(2 t) (Kandasamy et al., arXiv 1503.01673)."""
        mean, variance = self.predict(np.full(len(points), time), points)
        beta = 0.2 * points.shape[1] * math.log(2 * (len(self.gains) + 1))
        bound: Array = mean + np.sqrt(beta * variance)
        return bound

    def _covariance(self) -> Array:
        noise = self.noise * np.eye(len(self.times))
        return self._kernel(self.times, self.points, self.times, self.points) + noise

    def _kernel(self, times: Array, points: Array, other_times: Array, other_points: Array) -> Array:
        squares = ((points[:, None, :] - other_points[None, :, :]) ** 2).sum(axis=2)
        apart = np.abs(times[:, None] - other_times[None, :])
        kernel: Array = np.exp(-squares / (2 * self.length**2)) * (1.0 - self.forgotten) ** (apart / 2)
        return kernel

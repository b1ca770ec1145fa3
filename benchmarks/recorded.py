"""Learning curves that were recorded once, so that ways to search can be compared in seconds and without chance."""

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneyard.trainers.config.search import Domain
from tuneyard.tune.schedule.perturb import to_unit

FASHION_MNIST = Path(__file__).parent / "curves/fashion_mnist.json.gz"


@dataclass(frozen=True, slots=True)
class Curve:
    """One configuration: its values, and the metric after each epoch; fewer than the others' where it diverged."""

    overrides: dict[str, Any]
    values: tuple[float, ...]

    def at(self, epoch: int) -> float:
        """The metric after this epoch, counted from 1; NaN once the training had diverged."""
        return self.values[epoch - 1] if epoch <= len(self.values) else math.nan


@dataclass(frozen=True, slots=True)
class Recorded:
    """All curves of one space; greater values are better."""

    metric: str
    epochs: int
    space: dict[str, Domain]
    curves: tuple[Curve, ...]

    @classmethod
    def load(cls, path: Path = FASHION_MNIST) -> "Recorded":
        """Read what `export_curves.py` wrote."""
        found = json.loads(gzip.decompress(path.read_bytes()))
        space = {key: Domain.model_validate(domain) for key, domain in found["space"].items()}
        keys = list(space)
        curves = (
            Curve(dict(zip(keys, row["overrides"], strict=True)), tuple(row["values"])) for row in found["trials"]
        )
        return cls(found["metric"], found["epochs"], space, tuple(curves))

    @property
    def best(self) -> float:
        """The best value of all epochs of all curves."""
        return max(max(curve.values, default=-math.inf) for curve in self.curves)


class Pool:
    """Answers a searcher's wish with the nearest curve, each one once.

    Distance: Euclidean over the numbers' places in their ranges, from 0 to 1, by their logarithm where the domain has
    one; a choice is at the distance 0 or 1.
    """

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._free = list(range(len(recorded.curves)))
        self._numbers = [key for key, domain in recorded.space.items() if domain.kind != "choice"]
        self._choices = [key for key, domain in recorded.space.items() if domain.kind == "choice"]
        self._places = np.array([self._place(curve.overrides) for curve in recorded.curves])

    def __len__(self) -> int:
        return len(self._free)

    def take(self, wish: Mapping[str, Any]) -> Curve:
        """The nearest curve that was not taken yet."""
        apart = ((self._places[self._free] - self._place(wish)) ** 2).sum(axis=1)
        for key in self._choices:
            apart += [self._recorded.curves[index].overrides[key] != wish[key] for index in self._free]
        return self._recorded.curves[self._free.pop(int(np.argmin(apart)))]

    def _place(self, overrides: Mapping[str, Any]) -> list[float]:
        return [to_unit(self._recorded.space[key], overrides[key]) for key in self._numbers]

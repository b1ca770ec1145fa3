"""Asynchronous successive halving (Li et al., arXiv 1810.05934), behind Ray Tune's scheduler."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuneyard.trainers.experiment import TuneConfig


class Rungs:
    """The rungs of one bracket, at `grace`, `grace·factor`, `grace·factor²`, … epochs, and who reached them."""

    def __init__(self, *, grace: int, factor: int, epochs: int, mode: str) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._factor = factor
        self._values: dict[int, dict[str, float]] = {}
        rung = grace
        while rung < epochs:
            self._values[rung] = {}
            rung *= factor

    @property
    def epochs(self) -> list[int]:
        """The rungs' epochs, ascending."""
        return list(self._values)

    def goes_on(self, trial: str, epoch: int, value: float) -> bool:
        """May the trial, having come to `value` at `epoch`, go on? True between rungs.

        At a rung the best one in `factor` of those that came there so far go on. NaN does not.
        """
        reached = self._values.get(epoch)
        if reached is None:
            return True
        reached[trial] = self._sign * value if math.isfinite(value) else -math.inf
        ranked = sorted(reached.values(), reverse=True)
        # With fewer than `factor` at the rung the best one goes on, so that the first is not held up.
        kept = max(len(ranked) // self._factor, 1)
        return reached[trial] >= ranked[kept - 1] and math.isfinite(value)


class Asha(FIFOScheduler):
    """Stops trials at rungs. Its memory can be filled with earlier trials by `learn`."""

    def __init__(self, config: TuneConfig, epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metric_name = config.metric
        self._rungs = Rungs(
            grace=config.grace_epochs, factor=config.reduction_factor, epochs=epochs, mode=config.mode
        )  # fmt: skip
        self.stopped: set[str] = set()

    def learn(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Count a trial of before, by its epochs' metrics."""
        for row in rows:
            if self._metric_name in row:
                self._rungs.goes_on(run_id, int(row["epoch"]), row[self._metric_name])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Ray's question after each epoch."""
        run_id = trial.config["run_id"]
        if self._metric_name not in result or self._rungs.goes_on(run_id, result["epoch"], result[self._metric_name]):
            return str(TrialScheduler.CONTINUE)
        self.stopped.add(run_id)
        return str(TrialScheduler.STOP)

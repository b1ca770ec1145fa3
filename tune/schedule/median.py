"""Median stopping (Golovin et al., "Google Vizier", KDD 2017, section 3.2.2): no pauses, no rungs."""

import statistics
from collections.abc import Mapping
from typing import Any

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.schedule.to_the_end import ToTheEnd

FEWEST_OTHERS = 3


class MedianStopping(ToTheEnd):
    """Ends a run whose best value so far is worse than the median of the others' running averages at the same epoch.

    From `grace_epochs` on, and where at least `FEWEST_OTHERS` others came to that epoch. Runs that were ended count
    too, at the epochs that they came to.
    """

    def __init__(self, config: TuneConfig) -> None:
        super().__init__()
        self._grace = config.grace_epochs
        self._sign = 1.0 if config.mode == "max" else -1.0
        self._values: dict[str, list[float]] = {}
        self._averages: dict[int, dict[str, float]] = {}

    def began(self, run_id: str, overrides: Mapping[str, Any]) -> None:
        """Nothing depends on the values."""
        self._values.setdefault(run_id, [])

    def goes_on(self, run_id: str, epoch: int, value: float) -> bool:
        """Compare with the others at this epoch."""
        if not super().goes_on(run_id, epoch, value):
            return False
        values = self._values.setdefault(run_id, [])
        values.append(self._sign * value)
        averages = self._averages.setdefault(epoch, {})
        averages[run_id] = statistics.fmean(values)
        others = [average for other, average in averages.items() if other != run_id]
        if epoch < self._grace or len(others) < FEWEST_OTHERS:
            return True
        return max(values) >= statistics.median(others)

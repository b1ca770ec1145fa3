"""No scheduling: every run trains all its epochs."""

import math
from collections.abc import Mapping
from typing import Any

from tuneyard.tune.schedule.scheduler import NextLeg


class ToTheEnd:
    """The scheduler `none`. Only a run whose metric is not finite any more ends early."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}

    def began(self, run_id: str, overrides: Mapping[str, Any]) -> None:
        """Nothing depends on it."""

    def leg_end(self, run_id: str, epoch: int) -> int | None:
        """Not before the run's end."""
        return None

    def goes_on(self, run_id: str, epoch: int, value: float) -> bool:
        """While the value is finite."""
        self._waiting.pop(run_id, None)
        return math.isfinite(value)

    def paused(self, run_id: str, epoch: int) -> None:
        """The sweep had another scheduler when it paused this run: now it goes on to its end."""
        self._waiting[run_id] = epoch

    def next_leg(self, *, exhausted: bool) -> NextLeg | None:
        """Whoever was paused first."""
        for run_id in self._waiting:
            del self._waiting[run_id]
            return NextLeg(run_id)
        return None

    def gone(self, run_id: str) -> None:
        """It does not wait any more."""
        self._waiting.pop(run_id, None)

"""Finds workers that hang: no step for too long, while there ought to be steps."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tuneyard.trainers.parallel.board import Phase, Place

_LEAST_CPU_S = 0.02
_LEAST_CPU_SHARE = 0.0005


class Watched(Protocol):
    """A worker's process, as far as the watchdog looks at it."""

    def stopped(self) -> bool: ...

    def cpu_s(self) -> float: ...


class Watchdog:
    """Looks at one attempt's workers again and again; `timeout_s` is how long nothing may happen.

    Between the steps of an epoch, a sign of life is a step of any worker. Before, in a validation and while a
    checkpoint is copied, it is also processor time that any of their processes uses: data are decoded, a model is
    compiled. While a run ends, its last upload may take any time. A process that is stopped (SIGSTOP) hangs whatever it
    was at.

    clock: seconds. Time in which nobody looked, because this process too was stopped, does not count.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = min(1.0, timeout_s / 8)
        self._timeout_s, self._clock = timeout_s, clock
        self._looked = clock()
        self._seen: list[Place] = []
        self._quiet_s, self._cpu_s = 0.0, 0.0
        self._stopped_s: dict[int, float] = {}

    def due(self) -> bool:
        """Is it time to look again?"""
        return self._clock() - self._looked >= self.interval_s

    def look(self, places: Sequence[Place], workers: Sequence[Watched]) -> list[int]:
        """The ranks that hang: those that are stopped; else all of them, since they wait for each other; else none."""
        now = self._clock()
        passed_s, self._looked = min(now - self._looked, 2 * self.interval_s), now
        for rank, worker in enumerate(workers):
            self._stopped_s[rank] = self._stopped_s.get(rank, 0.0) + passed_s if worker.stopped() else 0.0
        stopped = [rank for rank, seconds in self._stopped_s.items() if seconds >= self._timeout_s]
        if stopped:
            return stopped
        self._quiet_s += passed_s
        if self._alive(places, workers):
            self._quiet_s, self._seen = 0.0, list(places)
        return list(range(len(workers))) if self._quiet_s >= self._timeout_s else []

    def _alive(self, places: Sequence[Place], workers: Sequence[Watched]) -> bool:
        phases = {place.phase for place in places}
        if list(places) != self._seen or Phase.ENDING in phases:
            self._cpu_s = 0.0
            return True
        if phases == {Phase.STEPPING}:
            return False
        used_s = sum(worker.cpu_s() for worker in workers)
        worked = used_s - self._cpu_s > max(_LEAST_CPU_S, _LEAST_CPU_SHARE * self._timeout_s)
        if worked or used_s < self._cpu_s:
            self._cpu_s = used_s
        return worked

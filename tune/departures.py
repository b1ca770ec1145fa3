"""Trials that have to leave: those on machines that are being taken away, and all of them when the sweep is to stop.

They save and leave by themselves. Who has not left in time is ended: some wait in its process has no end. The run goes
on from its newest durable checkpoint.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

LOOK_S = 0.5
TOGETHER = 8
"""So many runs' stores are asked at a time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of Ray Tune's, with the others that the same trial has.

    run_id: whose leg it trains; None where it is kept for the next one. started: False while it is still to come.
    nodes: where it and the trial's other workers are, or will be.
    """

    run_id: str | None
    actor: Any
    actor_id: str
    started: bool
    nodes: frozenset[str]


class Place(Protocol):
    """Ray, as far as it is asked here."""

    def draining(self) -> Mapping[str, float | None]:
        """Node -> the seconds that are left to it; None: not said."""
        ...

    def processes(self) -> list[Process]: ...

    def drop_kept(self) -> None:
        """End the processes that are kept for the next legs."""
        ...

    def end(self, process: Process) -> None: ...


@dataclass(slots=True)
class _Leaving:
    """A run that has to leave its nodes: `until`, by the clock. machine_s: what its machine had left; None: enough."""

    until: float
    machine_s: float | None


class Departures:
    """Sees to it that trials leave.

    Args:
        leave: asks the trials in these processes to leave, and those in no others.
        saving_s: how long a trial that was asked may be saving.
        last_words: what to say of a run that was late, and, where its machine had no more, the seconds that it had.
            Called from other threads.

    Attributes:
        draining: the nodes that get no new work.
    """

    def __init__(
        self, leave: Callable[[Collection[str]], None], saving_s: float, last_words: Callable[[str, float | None], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._leave, self._saving_s, self._last_words, self._clock = leave, saving_s, last_words, clock
        self.draining: frozenset[str] = frozenset()
        self._looked = float("-inf")
        self._leaving: dict[str, _Leaving] = {}
        self._late: dict[str, Future[str]] = {}
        self._stop_by: float | None = None
        self._pool = ThreadPoolExecutor(TOGETHER)

    def stop(self) -> None:
        """All trials were asked to stop: from now on their time runs."""
        self._stop_by = self._clock() + self._saving_s

    def look(self, place: Place) -> None:
        """Called often; looks twice a second."""
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        draining = place.draining()
        self.draining = frozenset(draining)
        if draining:
            self._send_away(place, draining, now)
        self._end_late(place, now)

    def drained(self, run_id: str) -> bool:
        """Is, or was, the run's leg on a machine that is being taken away?"""
        return run_id in self._leaving

    def late(self, run_id: str) -> str | None:
        """The last words for a run whose process was ended here; None for others. Takes seconds at most."""
        words = self._late.get(run_id)
        return words.result() if words is not None else None

    def left(self, run_id: str) -> None:
        """The run's leg has ended, however."""
        self._leaving.pop(run_id, None)
        self._late.pop(run_id, None)

    def close(self) -> None:
        """Nothing more is asked."""
        self._pool.shutdown(wait=False)

    def _send_away(self, place: Place, draining: Mapping[str, float | None], now: float) -> None:
        found = [process for process in place.processes() if process.nodes & draining.keys()]
        self._leave([process.actor_id for process in found])
        if any(process.run_id is None for process in found):
            place.drop_kept()
        for process in found:
            if process.run_id is None:
                continue
            left = [draining[node] for node in process.nodes & draining.keys()]
            machine_s = min((seconds for seconds in left if seconds is not None), default=None)
            known = self._leaving.get(process.run_id)
            until = now + self._saving_s if known is None else known.until
            if machine_s is not None and now + machine_s < until:
                self._leaving[process.run_id] = _Leaving(now + machine_s, machine_s)
            elif known is None:
                self._leaving[process.run_id] = _Leaving(until, None)
                log.info("%s: its machine is being taken away; it is to save and leave.", process.run_id)
            if not process.started:
                # A machine that is being taken away starts nothing more: it would be waited for in vain.
                place.end(process)

    def _end_late(self, place: Place, now: float) -> None:
        untils = [leaving.until for leaving in self._leaving.values()]
        if self._stop_by is not None:
            untils.append(self._stop_by)
        if now < min(untils, default=float("inf")):
            return
        for process in place.processes():
            run_id = process.run_id
            if run_id is None or run_id in self._late or now < self._until(run_id):
                continue
            leaving = self._leaving.get(run_id)
            machine_s = leaving.machine_s if leaving is not None else None
            self._late[run_id] = self._pool.submit(self._last_words, run_id, machine_s)
            log.warning("%s: it did not save and leave in time; its process is ended.", run_id)
            place.end(process)

    def _until(self, run_id: str) -> float:
        leaving = self._leaving.get(run_id)
        of_machine = leaving.until if leaving is not None else float("inf")
        return min(of_machine, self._stop_by if self._stop_by is not None else float("inf"))

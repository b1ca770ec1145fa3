"""Plays a scheduler over curves that are known beforehand, as the desk would: a few workers, each with one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tuneyard.tune.schedule.scheduler import NextLeg, Scheduler

Event = tuple[str, int, NextLeg | None]
"""A run, the epoch that it begins a leg at, and the scheduler's word that it goes on; None for a new one."""


@dataclass
class Sweep:
    """A sweep in the middle. Each round every worker trains one epoch."""

    scheduler: Scheduler
    curves: Mapping[str, Sequence[float]]
    workers: int
    to_begin: list[str]
    reached: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    running: dict[str, int | None] = field(default_factory=dict)
    """Run -> the epoch at which it is to pause."""
    events: list[Event] = field(default_factory=list)

    def round(self) -> bool:
        """Let every worker train an epoch; False once nothing is left to do."""
        while len(self.running) < self.workers and self._begin():
            pass
        for run_id in list(self.running):
            self._train(run_id)
        return bool(self.running or self.to_begin or self.waiting - self.ended)

    def _begin(self) -> bool:
        leg = self.scheduler.next_leg(exhausted=False)
        if leg is None and not self.to_begin and not self.running:
            leg = self.scheduler.next_leg(exhausted=True)
        if leg is None and not self.to_begin:
            if not self.running:
                self.waiting.clear()
            return False
        run_id = leg.run_id if leg else self.to_begin.pop(0)
        if leg is None:
            self.scheduler.began(run_id, {})
        if leg and leg.clone_of:
            self.reached[run_id] = self.reached[leg.clone_of]
        epoch = self.reached.setdefault(run_id, 0)
        self.waiting.discard(run_id)
        self.events.append((run_id, epoch, leg))
        self.running[run_id] = self.scheduler.leg_end(run_id, epoch)
        return True

    def _train(self, run_id: str) -> None:
        epoch = self.reached[run_id] = self.reached[run_id] + 1
        goes_on = self.scheduler.goes_on(run_id, epoch, self.curves[run_id][epoch - 1])
        if not goes_on or epoch == len(self.curves[run_id]):
            self.scheduler.gone(run_id)
            self.ended.add(run_id)
        elif epoch == self.running[run_id]:
            self.scheduler.paused(run_id, epoch)
            self.waiting.add(run_id)
        else:
            return
        del self.running[run_id]


def play(scheduler: Scheduler, curves: Mapping[str, Sequence[float]], *, workers: int = 1) -> dict[str, int]:
    """A whole sweep; returns the epochs that each run came to."""
    sweep = Sweep(scheduler, curves, workers, list(curves))
    while sweep.round():
        pass
    return sweep.reached


def replayed(
    make: Callable[[], Scheduler], curves: Mapping[str, Sequence[float]], *, events: int, workers: int = 1
) -> tuple[list[Event], list[Event]]:
    """What a sweep does after so many rounds, and what it does when a new scheduler takes it up there.

    The new one hears of one run after the other, as of a sweep that is resumed. The cut is made once nothing is
    running, so that both go on from the same place.
    """
    sweep = Sweep(make(), curves, workers, list(curves))
    rounds = 0
    while rounds < events or sweep.running:
        assert sweep.round(), "the sweep was over before the cut"
        rounds += 1
    resumed = Sweep(make(), curves, workers, list(sweep.to_begin), dict(sweep.reached), set(sweep.waiting))
    for run_id, epochs in sweep.reached.items():
        resumed.scheduler.began(run_id, {})
        for epoch in range(1, epochs + 1):
            resumed.scheduler.goes_on(run_id, epoch, curves[run_id][epoch - 1])
        if run_id in sweep.ended:
            resumed.scheduler.gone(run_id)
        else:
            resumed.scheduler.paused(run_id, epochs)
    before = len(sweep.events)
    for one in (sweep, resumed):
        while one.round():
            pass
    return sweep.events[before:], resumed.events

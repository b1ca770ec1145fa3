"""A desk and a play on it: legs that train as a table of curves says, without Ray and without training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.config.training import Prices
from tuneyard.tune.budget import Budget
from tuneyard.tune.desk import Desk, How, Leg
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.trials import Trial

EPOCHS = 9


class InTurn:
    """Asks for x = 0, 1, 2, …"""

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        return {"optimizer.lr": 0.001 * (1 + len(trials))}


def experiment(**changes: Any) -> Experiment:
    """Nine epochs; `tune` and `validation` and `train` may be given."""
    return validate(
        {
            "name": "played",
            "data": {"source": "digits", "validation": changes.get("validation", {})},
            "train": {"epochs": EPOCHS} | changes.get("train", {}),
            "tune": {"space": {"optimizer.lr": {"uniform": [0.0001, 1.0]}}, "trials": 4} | changes.get("tune", {}),
        },
        where="desks.py",
    )


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Played:
    """A sweep's desk, and what happened at it, in order."""

    desk: Desk
    clock: Clock
    legs: list[Leg] = field(default_factory=list)
    epochs: list[tuple[str, int]] = field(default_factory=list)

    def of(self, run_id: str) -> list[Leg]:
        return [leg for leg in self.legs if leg.run_id == run_id]

    def last_epoch(self, run_id: str) -> int:
        return max(epoch for one, epoch in self.epochs if one == run_id)


def make_desk(setup: Experiment, *, earlier: Sequence[Trial] = (), trials: int | None = None) -> Played:
    """A desk with the scheduler and budget of the experiment, and trials with ever higher learning rates."""
    assert setup.tune is not None
    clock = Clock()
    budget = Budget(setup.tune.budget, cpus=1, gpus=0, prices=Prices(cpu_hour=1.0), clock=clock)
    scheduler = build_scheduler(setup.tune, setup.train.epochs)
    desk = Desk(
        setup, setup.tune, searcher=InTurn(), scheduler=scheduler, budget=budget,
        trials=setup.tune.trials if trials is None else trials, clock=clock,
    )  # fmt: skip
    for trial in earlier:
        desk.take_up(trial)
    return Played(desk, clock)


def play(
    played: Played, value: Callable[[str, int], float], *, workers: int = 1, seconds: float = 1.0,
    accidents: Mapping[tuple[str, int], How] | None = None, steps: int | None = None,
) -> Played:  # fmt: skip
    """Let `workers` runs train side by side, one epoch each in turn, until the sweep is over (or so many epochs).

    value: of a run after an epoch. accidents: (run, epoch) -> how its leg ends before that epoch does; once each.
    """
    desk, coming = played.desk, dict(accidents or {})
    running: list[tuple[Leg, int]] = []
    while steps is None or len(played.epochs) < steps:
        while len(running) < workers and (leg := desk.next_leg()) is not None:
            played.legs.append(leg)
            running.append((leg, desk.run(leg.run_id).epoch + 1))
        if not running:
            return played
        leg, epoch = running.pop(0)
        accident = coming.pop((leg.run_id, epoch), None)
        if accident is not None:
            desk.leg_ended(leg.run_id, accident)
            continue
        played.clock.now += seconds / workers
        row = {"epoch": epoch, "val/accuracy": value(leg.run_id, epoch), "images_per_s": 100.0 * epoch}
        played.epochs.append((leg.run_id, epoch))
        if not desk.epoch_ended(leg.run_id, row):
            desk.leg_ended(leg.run_id, "stopped")
        elif epoch == desk.run(leg.run_id).last_epoch:
            desk.leg_ended(leg.run_id, "finished")
        elif epoch == leg.until:
            desk.leg_ended(leg.run_id, "paused")
        else:
            running.append((leg, epoch + 1))
    return played

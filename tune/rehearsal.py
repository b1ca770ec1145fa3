"""A sweep played through without training: the real desk, scheduler and budget, a clock that jumps, made-up values.

So an estimate needs no formulas of its own for what schedulers, folds, confirmation and budgets come to.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.search import BudgetConfig, TuneConfig
from tuneyard.trainers.config.training import Prices
from tuneyard.tune.budget import Budget, Spent
from tuneyard.tune.desk import Desk, Leg
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.trials import Trial

CURVE_NOISE = 0.3  # of a value from epoch to epoch, where trials differ by 1: early ranks tell the later ones, mostly


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a configuration trains: seconds per epoch, validation included, in several samples.

    No samples: the configuration cannot be trained, and its trials fail at once.
    """

    epoch_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a sweep is played on.

    Attributes:
        drawn: the values of its trials, in order.
        setup_s: seconds that each leg holds its resources before its first epoch; `startup_s`: once, before any leg.
        parallel: runs at a time, each with so many `cpus` and `gpus`, all its workers together.
    """

    experiment: Experiment
    drawn: Sequence[dict[str, Any]]
    paces: Sequence[Pace]
    parallel: int
    cpus: float
    gpus: float
    prices: Prices
    setup_s: float = 0.0
    startup_s: float = 0.0

    @property
    def config(self) -> TuneConfig:
        """The experiment's `tune` section."""
        assert self.experiment.tune is not None, "a plan is of a sweep"
        return self.experiment.tune


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What one sweep came to.

    `reached` has the last epoch of each trial's first run; `epochs`, `legs` and `confirming` count over all runs.
    """

    trials: int
    reached: tuple[int, ...]
    completed: int
    failed: int
    epochs: int
    legs: int
    confirming: int
    pauses: frozenset[int]
    spent: Spent
    ended_by: str | None


class Rehearsal:
    """One sweep, from a seed.

    Args:
        trend: by how much the last trials are better than the first, as a searcher that learns makes them; in units of
            what trials differ by.
    """

    def __init__(self, stage: Stage, budget: BudgetConfig, *, seed: int, trend: float) -> None:
        self._stage, self._trend = stage, trend
        self._chance = random.Random(seed)
        # A few configurations stand for all: drawn anew, with repeats, they show how much hangs on which ones they were
        # (the bootstrap; Efron 1979).
        self._paces = self._chance.choices(list(stage.paces), k=len(stage.paces))
        self._now = 0.0
        self._events: list[tuple[float, int, Leg]] = []
        self._count = self._epochs = self._legs = 0
        self._pauses: set[int] = set()
        self._fates: dict[str, _Fate] = {}
        self._budget = Budget(
            budget, cpus=stage.cpus, gpus=stage.gpus, prices=stage.prices, clock=lambda: self._now
        )  # fmt: skip
        config = stage.config
        # PB2 trains the same legs as PBT, and fits a model for values that do not matter here.
        playable = config.model_copy(update={"scheduler": "pbt"}) if config.scheduler == "pb2" else config
        self._desk = Desk(
            stage.experiment, playable, searcher=_Drawn(stage.drawn), trials=len(stage.drawn), budget=self._budget,
            scheduler=build_scheduler(playable, stage.experiment.train.epochs), clock=lambda: self._now,
        )  # fmt: skip

    def play(self) -> Rehearsed:
        """Play the sweep to its end."""
        self._now = self._stage.startup_s
        self._fill()
        while self._events:
            self._now, _, leg = heapq.heappop(self._events)
            self._epoch(leg)
            self._fill()
        trials = list(self._desk.trials.values())
        return Rehearsed(
            trials=len(trials),
            reached=tuple(trial.leader.epoch for trial in trials),
            completed=sum(trial.status == "completed" for trial in trials),
            failed=sum(trial.status == "failed" for trial in trials),
            epochs=self._epochs,
            legs=self._legs,
            confirming=sum(run.epoch > 0 for trial in trials for run in trial.confirming),
            pauses=frozenset(self._pauses),
            spent=self._budget.spent(),
            ended_by=self._desk.ended_by,
        )

    def _fill(self) -> None:
        """Begin as many legs as may run at a time."""
        while len(self._events) < self._stage.parallel:
            leg = self._desk.next_leg()
            if leg is None:
                break
            self._legs += 1
            fate = self._fate(self._desk.trials[leg.trial_id])
            if not fate.pace.epoch_s:
                self._desk.leg_ended(leg.run_id, "refused")
                continue
            self._push(leg, self._stage.setup_s)

    def _epoch(self, leg: Leg) -> None:
        run = self._desk.run(leg.run_id)
        fate = self._fates[leg.trial_id]
        epoch = run.epoch + 1
        self._epochs += 1
        value = fate.quality + 0.5 * epoch / run.last_epoch + self._chance.gauss(0.0, CURVE_NOISE)
        metric = self._desk.metric
        goes_on = self._desk.epoch_ended(
            leg.run_id, {"epoch": epoch, metric.name: value if metric.mode == "max" else -value}
        )
        if epoch >= run.last_epoch:
            self._desk.leg_ended(leg.run_id, "finished")
        elif not goes_on:
            self._desk.leg_ended(leg.run_id, "stopped")
        elif leg.until is not None and epoch >= leg.until:
            self._pauses.add(epoch)
            self._desk.leg_ended(leg.run_id, "paused")
        else:
            self._push(leg, 0.0)

    def _push(self, leg: Leg, delay_s: float) -> None:
        self._count += 1
        epoch_s = self._chance.choice(self._fates[leg.trial_id].pace.epoch_s)
        heapq.heappush(self._events, (self._now + delay_s + epoch_s, self._count, leg))

    def _fate(self, trial: Trial) -> "_Fate":
        if trial.trial_id not in self._fates:
            better = self._trend * len(self._fates) / max(len(self._stage.drawn), 1)
            self._fates[trial.trial_id] = _Fate(self._chance.choice(self._paces), self._chance.gauss(better, 1.0))
        return self._fates[trial.trial_id]


@dataclass(frozen=True, slots=True)
class _Fate:
    """What a trial is to come to."""

    pace: Pace
    quality: float


@dataclass(slots=True)
class _Drawn:
    """A searcher that was asked before."""

    drawn: Sequence[dict[str, Any]]
    asked: int = field(default=0)

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The next values."""
        if self.asked == len(self.drawn):
            return None
        self.asked += 1
        return dict(self.drawn[self.asked - 1])

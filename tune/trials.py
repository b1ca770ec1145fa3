"""What a sweep knows of each of its trials, and of the runs that a trial is made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.record import Metric
from tuneyard.tune.search.searcher import Tried, TriedStatus

RunState = Literal["waiting", "running", "paused", "completed", "stopped", "failed"]
_ENDED = ("completed", "stopped", "failed")


@dataclass(slots=True)
class TrialRun:
    """One training of a trial: all of it, or a part (a fold, a seed).

    Attributes:
        settings: values that make the part, beside the trial's own: the fold that is held out, the seed.
        last_epoch: the epoch that the run is to reach.
        values: epoch -> the metric. `best_row`: the row of the best of them.
        begun: has it a record in the store, to go on from?
        clone_of: the run that population-based training lets it go on from.
    """

    run_id: str
    trial_id: str
    part: dict[str, int]
    settings: dict[str, Any]
    last_epoch: int
    state: RunState = "waiting"
    begun: bool = False
    failures: int = 0
    values: dict[int, float] = field(default_factory=dict)
    best_row: dict[str, Any] | None = None
    clone_of: str | None = None
    new_values: bool = False

    @property
    def epoch(self) -> int:
        """How far it has come; 0 before its first epoch has ended."""
        return max(self.values, default=0)

    @property
    def ended(self) -> bool:
        """Will it train no more, as things stand?"""
        return self.state in _ENDED

    def add(self, row: dict[str, Any], metric: Metric) -> float:
        """Count an epoch's row; returns its metric, NaN where the row has none."""
        value = float(row.get(metric.name, math.nan))
        self.values[int(row["epoch"])] = value
        if metric.as_good(value, self.best_row[metric.name] if self.best_row else None):
            self.best_row = row
        return value


@dataclass(slots=True)
class Trial:
    """One configuration: its values, the runs that make its result, and those that confirm it over other seeds.

    Attributes:
        dropped: its folds were not all trained, since it cannot win.
        beside: values of keys that the space had not when it was tried, and has now: those of its experiment.
    """

    trial_id: str
    overrides: dict[str, Any]
    runs: list[TrialRun]
    confirming: list[TrialRun] = field(default_factory=list)
    dropped: bool = False
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def leader(self) -> TrialRun:
        """The run that the scheduler judges the trial by."""
        return self.runs[0]

    @property
    def status(self) -> TriedStatus:
        """The trial's, from those of its runs."""
        states = {run.state for run in self.runs}
        if "running" in states or (states == {"waiting"} and not self.dropped):
            return "running"
        if self.leader.state == "failed" or "failed" in states:
            return "failed"
        if self.dropped or "stopped" in states:
            return "stopped"
        return "completed" if states == {"completed"} else "paused"

    def value(self, metric: Metric) -> float | None:
        """The mean over its runs of their best epochs; None before each has one, or where one failed."""
        if any(run.best_row is None or run.state == "failed" for run in self.runs):
            return None
        return sum(float(run.best_row[metric.name]) for run in self.runs if run.best_row) / len(self.runs)

    def fold_values(self, metric: Metric) -> dict[int, float]:
        """Fold -> best value, of the folds that have been trained to their end."""
        return {
            run.part["fold"]: float(run.best_row[metric.name])
            for run in self.runs
            if "fold" in run.part and run.state == "completed" and run.best_row
        }

    def objectives(self, names: Iterable[str]) -> tuple[float, ...]:
        """The value of each objective in the best epoch, mean over the runs; empty where one is missing."""
        rows = [run.best_row for run in self.runs if run.best_row is not None]
        names = list(names)
        if not rows or any(name not in row for row in rows for name in names):
            return ()
        return tuple(sum(float(row[name]) for row in rows) / len(rows) for name in names)

    def tried(self, config: TuneConfig) -> Tried:
        """The trial as searchers see it."""
        epochs = sorted({epoch for run in self.runs for epoch in run.values})
        values = []
        for epoch in epochs:
            found = [run.values[epoch] for run in self.runs if epoch in run.values]
            values.append(sum(found) / len(found))
        several = bool(config.objectives)
        objectives = self.objectives([config.metric, *config.objectives]) if several else ()
        return Tried(self.beside | self.overrides, tuple(values), self.status, objectives)


def make_trial(trial_id: str, overrides: dict[str, Any], experiment: Experiment) -> Trial:
    """A new trial: one run, or one for each fold."""
    folds = experiment.data.validation.folds if experiment.data.validation.every_fold else None
    parts = [{"fold": fold} for fold in range(folds)] if folds else [{}]
    return Trial(trial_id, overrides, [make_run(trial_id, overrides, part, experiment) for part in parts])


def make_run(trial_id: str, overrides: dict[str, Any], part: dict[str, int], experiment: Experiment) -> TrialRun:
    """A run of the trial. `part` may hold a fold, counted from 0, and a seed, counted from 1."""
    settings: dict[str, Any] = {}
    if "seed" in part:
        settings["train.seed"] = int(overrides.get("train.seed", experiment.train.seed)) + part["seed"]
    if "fold" in part:
        settings["data.validation.fold"] = part["fold"]
    run_id = "-".join([trial_id, *(f"{name}{number}" for name, number in part.items())])
    last_epoch = int(overrides.get("train.epochs", experiment.train.epochs))
    return TrialRun(run_id, trial_id, part, settings, last_epoch)

"""Trials as their records tell them: one run each, or the folds of a cross-validation, and repeats over seeds.

Imports neither Ray nor torch, so that `tuneyard compare` answers at once.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuneyard.trainers.record import Metric, RunStatus, SweepRecord
from tuneyard.tune.reports.run_folders import Run


@dataclass(frozen=True, slots=True)
class TrialRuns:
    """One trial: the runs that make its result (its folds, or the one run), and those that confirm it over seeds.

    `open`: its sweep is running, so that folds that have no record yet may still come.
    """

    runs: tuple[Run, ...]
    confirming: tuple[Run, ...] = ()
    open: bool = False

    @property
    def first(self) -> Run:
        """The run that speaks for the trial: its settings, its experiment, its code."""
        return self.runs[0]

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Those that make the result, then the others."""
        return self.runs + self.confirming

    @property
    def uri(self) -> str:
        """Of its only run; of several, the common beginning of theirs."""
        run = self.first
        if len(self.all_runs) == 1 or run.record.trial_id is None:
            return run.uri
        return f"{run.uri.rpartition('/')[0]}/{run.record.trial_id}"

    @property
    def wanted(self) -> int:
        """How many runs make a whole result: the folds of a cross-validation, or one."""
        folds = self.first.setting("data.validation.folds") if "fold" in self.first.record.part else None
        return folds if isinstance(folds, int) else len(self.runs)

    @property
    def status(self) -> RunStatus:
        """The least finished of its runs' statuses; a result with folds left out was stopped, or will go on."""
        found = {run.record.status for run in self.runs}
        order: tuple[RunStatus, ...] = ("running", "failed", "interrupted", "paused", "stopped")
        for status in order:
            if status in found:
                return status
        return "completed" if len(self.runs) >= self.wanted else "paused" if self.open else "stopped"

    def bests(self, metric: Metric) -> list[float]:
        """The best value of each run that has one."""
        return [best.value for run in self.runs if (best := run.best(metric))]

    def value(self, metric: Metric) -> float | None:
        """The mean of its runs' best values; None before one has any."""
        bests = self.bests(metric)
        return statistics.fmean(bests) if bests else None

    def std(self, metric: Metric) -> float | None:
        """The sample standard deviation over its runs; None below two."""
        bests = self.bests(metric)
        return statistics.stdev(bests) if len(bests) > 1 else None

    def objective(self, name: str, metric: Metric) -> float | None:
        """Another value in the best epoch, as the mean over the runs."""
        found = [row[name] for run in self.runs if name in (row := run.at_best(metric))]
        return statistics.fmean(found) if found else None

    def curve(self, name: str) -> list[float]:
        """By epoch the mean over the runs that have begun, as far as all of them have come."""
        curves = [run.values(name) for run in self.runs if run.epochs]
        return [statistics.fmean(values) for values in zip(*curves, strict=False)]

    def checkpoint(self, metric: Metric) -> str | None:
        """The best checkpoint that is still kept, of its best run that has one."""
        kept = [
            (best.value, uri) for run in self.runs if (best := run.best(metric)) and (uri := run.checkpoint(metric))
        ]
        if not kept:
            return None
        return (max if metric.mode == "max" else min)(kept)[1]

    @property
    def last(self) -> dict[str, float]:
        """The values of the newest epoch; of several runs their means."""
        rows = [run.last for run in self.runs if run.last]
        if len(rows) == 1:
            return rows[0]
        return {name: statistics.fmean(row[name] for row in rows if name in row) for name in (rows[0] if rows else ())}

    @property
    def images_per_s(self) -> float | None:
        """The median over its runs."""
        rates = [rate for run in self.runs if (rate := run.images_per_s) is not None]
        return statistics.median(rates) if rates else None

    @property
    def train_s(self) -> float:
        """Seconds of training, of all its runs together."""
        return sum(run.train_s for run in self.all_runs)

    @property
    def failed(self) -> Run | None:
        """The first of its runs that failed."""
        return next((run for run in self.runs if run.record.status == "failed"), None)


def group_trials(runs: Iterable[Run], sweeps: Sequence[SweepRecord]) -> list[TrialRuns]:
    """The runs as trials, in the order of their first runs; a run that is part of nothing is a trial of its own."""
    running = {sweep.sweep_id for sweep in sweeps if sweep.status == "running"}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        beside, _, name = run.uri.rpartition("/")
        # A run's own name may be another trial's id: of different lengths, the two keys never meet.
        key = (beside, name) if run.record.trial_id is None else (beside, run.record.trial_id, "trial")
        groups.setdefault(key, []).append(run)
    trials = []
    for group in groups.values():
        parts = sorted(group, key=lambda run: sorted(run.record.part.items()))
        result = [run for run in parts if "seed" not in run.record.part]
        others = [run for run in parts if "seed" in run.record.part]
        # Repeats over seeds of which the trial itself is not there are all that is known of it.
        trials.append(
            TrialRuns(tuple(result or others), tuple(others if result else ()), parts[0].record.sweep_id in running)
        )
    return trials

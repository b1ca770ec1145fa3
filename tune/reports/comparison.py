"""Trials side by side, each of one run or several: ordered by a metric, with what differs among them.

Imports neither Ray nor torch, so that `tuneyard compare` answers at once.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean
from typing import Any, Literal, TypeVar

from tuneyard.trainers.errors import ConfigError, StoreError, choose_from
from tuneyard.trainers.record import Metric, RunStatus, SweepRecord
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.tune.reports.run_folders import Run, find_runs
from tuneyard.tune.reports.trial_runs import TrialRuns, group_trials

Mode = Literal["min", "max"]
Item = TypeVar("Item")

# Reading is waiting for the store, not computing; many more threads gain nothing on S3 and thrash a disk.
READERS = 16
# Where a run is kept, who is told about it and how it was searched for say nothing about how it was trained.
SILENT = ("tune", "tracking", "checkpoint", "data.cache_dir", "data.cache_gb", "data.download", "data.s3")
SEED = "train.seed"
SMALLER_IS_BETTER = re.compile(r"(loss|error|mae|mse|nll|ece|brier|_s|_bytes)$")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Trials, best first; after them those with folds left out, the failed ones, and those without a value.

    `unreadable`: a sentence for each record that could not be read.
    """

    metric: Metric
    trials: tuple[TrialRuns, ...]
    differing: tuple[str, ...]
    sweeps: tuple[SweepRecord, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The experiments' names."""
        names = [run.record.name for run in self.runs] + [sweep.name for sweep in self.sweeps]
        return ", ".join(dict.fromkeys(names))

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run of every trial, in the trials' order."""
        return tuple(run for trial in self.trials for run in trial.all_runs)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each trial is called: its id, with as many folders before it as make it unique."""
        return unique_labels([trial.uri for trial in self.trials])

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """The objectives beside the metric, of the sweeps that have several."""
        asked = [(sweep.experiment.get("tune") or {}).get("objectives") or {} for sweep in self.sweeps]
        return tuple(
            Metric(name=name, mode=mode) for name, mode in {k: v for each in asked for k, v in each.items()}.items()
        )

    @property
    def on_front(self) -> tuple[bool, ...]:
        """Is each trial on its sweep's Pareto front?"""
        fronts = {(sweep.sweep_id, trial) for sweep in self.sweeps for trial in sweep.pareto}
        records = [trial.first.record for trial in self.trials]
        return tuple((record.sweep_id, record.trial_id or record.run_id) in fronts for record in records)

    @property
    def short_labels(self) -> tuple[str, ...]:
        """The labels without what they all begin with (a date, the experiment's name), where that is long."""
        labels = self.labels
        # Whatever the first and the last in order share, those between them share too.
        pairs = zip(min(labels, default=""), max(labels, default=""), strict=False)
        same = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cut = len(re.sub(r"[^-_./]*$", "", same))
        return tuple(f"…{label[cut:]}" if len(labels) > 1 and cut > 8 else label for label in labels)

    @property
    def log_keys(self) -> tuple[str, ...]:
        """Those of `differing` that were drawn from a logarithmic space."""
        experiments = [sweep.experiment for sweep in self.sweeps] + [run.record.experiment for run in self.runs]
        spaces = [(experiment.get("tune") or {}).get("space") or {} for experiment in experiments]
        domains = [(key, domain) for space in spaces for key, domain in space.items()]
        log = {key for key, domain in domains if domain.get("loguniform") or domain.get("qloguniform")}
        return tuple(key for key in self.differing if key in log)

    @property
    def statuses(self) -> dict[str, int]:
        """How many trials there are of each status that occurs, the good ends first."""
        counts = Counter(trial.status for trial in self.trials)
        order: tuple[RunStatus, ...] = ("completed", "stopped", "paused", "running", "interrupted", "failed")
        return {status: counts[status] for status in order if counts[status]}

    @property
    def cautions(self) -> tuple[str, ...]:
        """Reasons to doubt the order of the runs, each one a sentence."""
        return tuple(_cautions(self))


def compare(
    targets: Sequence[str],
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    options: S3Options | None = None,
) -> Comparison:
    """Read the runs under `targets` (see `find_runs`) and order them by `metric`, by default the one they were run for.

    `mode` is needed only for a metric that no run was run for and whose name does not end like a loss, an error or a
    time (those are better when smaller). A target given twice counts once. Raises `MissingKeyError` where there is no
    run, `StoreError` where none can be read, `ConfigError` for an unknown metric or runs with different ones.
    """
    runs: dict[str, Run] = {}
    sweeps: dict[str, SweepRecord] = {}
    unreadable: dict[str, None] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for target in targets:
            found = find_runs(target, options)
            for run in pool.map(_tolerant(found.read_run), found.runs):
                runs |= {run.uri: run} if isinstance(run, Run) else {}
                unreadable |= {run: None} if isinstance(run, str) else {}
            for sweep in pool.map(_tolerant(found.read_sweep), found.sweeps):
                sweeps |= {sweep.sweep_id: sweep} if isinstance(sweep, SweepRecord) else {}
                unreadable |= {sweep: None} if isinstance(sweep, str) else {}
    if not runs and not sweeps:
        raise StoreError("None of the records can be read: " + " ".join(unreadable))
    chosen = _metric(list(runs.values()), list(sweeps.values()), metric, mode)
    trials = group_trials(runs.values(), list(sweeps.values()))
    ordered = sorted(trials, key=lambda trial: (_rank(trial, chosen), trial.uri))
    differing = _differing([trial.first for trial in ordered])
    return Comparison(chosen, tuple(ordered), differing, tuple(sweeps.values()), tuple(unreadable))


def currency(sweep: SweepRecord) -> str:
    """What the sweep's money is counted in."""
    prices = (sweep.experiment.get("resources") or {}).get("prices") or {}
    return str(prices.get("currency", "USD"))


def unique_labels(uris: Sequence[str]) -> tuple[str, ...]:
    """Each address by as few of its last folders as tell it from the others."""
    paths = [uri.split("/") for uri in uris]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        labels = tuple("/".join(path[-depth:]) for path in paths)
        if len(set(labels)) == len(labels):
            return labels
    return tuple(uris)


def _rank(trial: TrialRuns, metric: Metric) -> tuple[bool, bool, bool, float]:
    """Low is good. A failed trial never is the best one, whatever it came to before, nor is one lucky fold of five."""
    bests = trial.bests(metric)
    if not bests:
        return True, True, True, math.inf
    value = fmean(bests)
    incomplete = len(bests) < trial.wanted
    return False, trial.status == "failed", incomplete, -value if metric.mode == "max" else value


def _tolerant(read: Callable[[str], Item]) -> Callable[[str], Item | str]:
    """One damaged record among a thousand must not hide the others: its error's text instead of it."""

    def attempt(prefix: str) -> Item | str:
        try:
            return read(prefix)
        except StoreError as error:
            return str(error)

    return attempt


def _metric(runs: list[Run], sweeps: list[SweepRecord], name: str | None, mode: Mode | None) -> Metric:
    """The metric asked for, or the one that all runs were run for."""
    theirs = Counter(run.record.metric for run in runs) or Counter(sweep.metric for sweep in sweeps)
    if name is not None:
        logged = {key for run in runs for row in run.epochs for key in row} - {"epoch", "step"}
        if logged and name not in logged:
            raise ConfigError(choose_from("metric", name, logged))
        modes = {metric.mode for metric in theirs if metric.name == name}
        guess: Mode = "min" if SMALLER_IS_BETTER.search(name) else "max"
        return Metric(name=name, mode=mode or (modes.pop() if len(modes) == 1 else guess))
    if len({metric.name for metric in theirs}) > 1 or (len(theirs) > 1 and mode is None):
        kinds = ", ".join(f"{metric.name} ({metric.mode}, {count} runs)" for metric, count in theirs.items())
        raise ConfigError(f"The runs were made for different metrics: {kinds}. Choose one with --metric and --mode.")
    (metric, *_) = theirs
    return Metric(name=metric.name, mode=mode or metric.mode)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key with its value; lists are values."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, value


def _differing(runs: list[Run]) -> tuple[str, ...]:
    """The swept keys, then every other key whose value is not the same in all runs, in the experiment's order."""
    swept = dict.fromkeys(key for run in runs for key in run.record.overrides)
    others = dict.fromkeys(key for run in runs for key, _ in _flat(run.record.experiment))
    told = [f"{key}." for key in (*SILENT, *swept)]
    # A key inside another one (of a model's args, of normalize) is told by that one's value.
    inside = {key for key in others for above in others if key.startswith(f"{above}.")}
    keys = [key for key in others if key not in inside and not any(f"{key}.".startswith(start) for start in told)]
    differing = [key for key in keys if len({json.dumps(run.setting(key), sort_keys=True) for run in runs}) > 1]
    # A new seed for each run is bookkeeping, unless it is the only thing that differs: then it is the experiment.
    if len(differing) + len(swept) > 1 and SEED in differing and len({run.setting(SEED) for run in runs}) == len(runs):
        differing.remove(SEED)
    return (*swept, *differing)


def _cautions(comparison: Comparison) -> Iterator[str]:
    records = [run.record for run in comparison.runs]
    data = {record.data.fingerprint for record in records if record.data}
    if len(data) > 1:
        yield f"The runs saw {len(data)} different data sets (by fingerprint): their metrics are not comparable."
    if any(key.startswith("data.validation") for key in comparison.differing):
        yield "The runs were validated on different samples (data.validation differs): part of the spread is the draw."
    commits = {record.git_commit for record in records}
    if len(commits) > 1:
        yield f"The runs were made by {len(commits)} different commits of the code."
    if any(record.git_dirty for record in records):
        yield "Some runs were made by code with uncommitted changes; git.diff beside their run.json holds them."

"""What a sweep has already done, read from its index and from its runs' own records."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.record import Metric, RunRecord, read_metrics, read_run
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.index import NAME, IndexedRun, IndexedTrial, read_index
from tuneyard.tune.trials import RunState, Trial, TrialRun, make_run, make_trial

READERS = 16
"""Records are read so many at a time: a bucket answers each after some hundredths of a second."""


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A run of before, with a row of metrics for each finished epoch."""

    record: RunRecord
    rows: list[dict[str, float]]

    @property
    def ended(self) -> bool:
        """Is there nothing left to do? Interrupted runs, and those whose process or driver was lost, go on."""
        return self.record.status in ("completed", "stopped", "failed") and not self.record.undecided


def read_earlier(store: Store, prefix: str) -> list[EarlierRun]:
    """Every run that has a record under the sweep's prefix, by run id; StoreError where one is damaged."""
    run_ids = sorted({key[len(prefix) :].split("/")[0] for key in store.keys(prefix) if key.endswith("/run.json")})

    def read(run_id: str) -> EarlierRun | None:
        try:
            return EarlierRun(read_run(store, f"{prefix}{run_id}/"), read_metrics(store, f"{prefix}{run_id}/"))
        except MissingKeyError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        return [found for found in pool.map(read, run_ids) if found is not None]


def read_trials(store: Store, prefix: str, experiment: Experiment, metric: Metric) -> list[Trial]:
    """The sweep's trials as they stand, oldest first, by this metric (which may be another than the sweep's own).

    Raises StoreError where the index or a record is damaged, or a record is gone that the index knows of.
    """
    runs = {run.record.run_id: run for run in read_earlier(store, prefix)}
    indexed = {trial.trial_id: trial for trial in read_index(store, prefix)}
    of_trial: dict[str, list[EarlierRun]] = {}
    for run in runs.values():
        of_trial.setdefault(run.record.trial_id or run.record.run_id, []).append(run)
    trials = []
    for trial_id in sorted(indexed.keys() | of_trial.keys()):
        if trial_id in indexed:
            trial = _from_index(indexed[trial_id], experiment)
            _refuse_losses(indexed[trial_id], runs, f"{store.uri}/{prefix}")
        else:
            trial = make_trial(trial_id, dict(of_trial[trial_id][0].record.overrides), experiment)
        entry = indexed.get(trial_id)
        said = {run.run_id: run.state for run in entry.runs + entry.confirming} if entry else {}
        _fill(trial, of_trial.get(trial_id, []), said, experiment, metric)
        trials.append(trial)
    return trials


def fill_beside(trials: Iterable[Trial], runs: Mapping[str, RunRecord], config: TuneConfig) -> None:
    """Give each trial the values that keys new to the space had in its experiment, so that it counts there too."""
    for trial in trials:
        record = runs.get(trial.leader.run_id)
        for key in config.space:
            if record is not None and key not in trial.overrides:
                found, value = _look_up(record.experiment, key.split("."))
                if found:
                    trial.beside[key] = value


def _from_index(indexed: IndexedTrial, experiment: Experiment) -> Trial:
    def runs(of: Sequence[IndexedRun]) -> list[TrialRun]:
        made = []
        for one in of:
            run = make_run(indexed.trial_id, indexed.overrides, one.part, experiment)
            run.settings, run.failures = dict(one.settings), one.failures
            made.append(run)
        return made

    trial = Trial(indexed.trial_id, dict(indexed.overrides), runs(indexed.runs), runs(indexed.confirming))
    for run, one in zip(trial.runs, indexed.runs, strict=True):
        if one.state == "stopped":  # a fold that was spared has no record that says so
            run.state = "stopped"
    trial.dropped = len(trial.runs) > 1 and indexed.status in ("stopped", "failed")
    return trial


def _refuse_losses(indexed: IndexedTrial, runs: Mapping[str, EarlierRun], place: str) -> None:
    for run in indexed.runs + indexed.confirming:
        if run.epoch > 0 and run.run_id not in runs:
            raise StoreError(
                f"{place}{run.run_id}/run.json is gone, but {NAME} says that this run came to epoch {run.epoch}: the "
                f"sweep's state is damaged, and is not continued. Restore the record from a copy, or delete "
                f"{place}{NAME} as well to go on without this run."
            )


def _fill(
    trial: Trial, runs: Sequence[EarlierRun], said: Mapping[str, RunState], experiment: Experiment, metric: Metric
) -> None:  # fmt: skip
    """What the records tell of the trial's runs. `said`: the index, by run id, which lags behind by seconds."""
    known = {run.run_id: run for run in trial.runs + trial.confirming}
    for earlier in runs:
        record = earlier.record
        run = known.get(record.run_id)
        if run is None:
            run = make_run(trial.trial_id, trial.overrides, record.part, experiment)
            (trial.confirming if "seed" in record.part else trial.runs).append(run)
        if run is trial.leader and record.overrides:
            trial.overrides = dict(record.overrides)
        run.begun = True
        for row in earlier.rows:
            run.add(row, metric)
        run.last_epoch = int(_look_up(record.experiment, ["train", "epochs"])[1] or run.last_epoch)
        run.state = _STATES[record.status]
        if record.undecided:
            # The driver was lost before it could judge the failure, or before it could write so into the record. What
            # took the driver may have caused the failure, too.
            judged = said.get(record.run_id)
            run.state = judged if judged in ("failed", "stopped") else "waiting"


_STATES: dict[str, RunState] = {
    "running": "waiting", "interrupted": "waiting", "paused": "paused", "completed": "completed",
    "stopped": "stopped", "failed": "failed",
}  # fmt: skip


def _look_up(tree: Any, path: Sequence[str]) -> tuple[bool, Any]:
    for part in path:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        else:
            return False, None
    return True, tree

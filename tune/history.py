"""What a sweep has already done, read from its trials' own records."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuneyard.trainers.errors import MissingKeyError
from tuneyard.trainers.record import Metric, RunRecord, read_metrics, read_run
from tuneyard.trainers.store import Store


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """A trial of before, with a row of metrics for each finished epoch."""

    record: RunRecord
    rows: list[dict[str, float]]

    @property
    def ended(self) -> bool:
        """Is there nothing left to do? Interrupted trials, and those whose process was lost, go on."""
        return self.record.status in ("completed", "stopped", "failed")

    def values(self, metric: Metric) -> list[float]:
        """The metric after each epoch."""
        return [row[metric.name] for row in self.rows if metric.name in row]


def read_earlier(store: Store, prefix: str) -> list[EarlierTrial]:
    """Every trial that has a record under the sweep's prefix, by run id."""
    run_ids = sorted({key[len(prefix) :].split("/")[0] for key in store.keys(prefix) if key.endswith("/run.json")})
    trials = []
    for run_id in run_ids:
        trial_prefix = f"{prefix}{run_id}/"
        try:
            trials.append(EarlierTrial(read_run(store, trial_prefix), read_metrics(store, trial_prefix)))
        except MissingKeyError:
            continue
    return trials


def best_of(trials: Sequence[EarlierTrial], metric: Metric) -> EarlierTrial | None:
    """The trial with the best epoch; None where no trial has one. A trial that failed, with NaN perhaps, never wins."""
    best: EarlierTrial | None = None
    for trial in trials:
        if trial.record.best is None or trial.record.status == "failed":
            continue
        if best is None or best.record.best is None or metric.better(trial.record.best.value, best.record.best.value):
            best = trial
    return best

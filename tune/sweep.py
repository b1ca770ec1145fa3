"""A sweep from experiment to winner: starts Ray, hands out trials, survives their failures, and can go on later."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.experiment import Experiment, TuneConfig
from tuneyard.trainers.loading import with_overrides
from tuneyard.trainers.record import Metric, RunRecord, SweepRecord, SweepStatus, now, read_sweep, write_record
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.store import Store, open_store
from tuneyard.tune.history import EarlierTrial, read_earlier

# Before Ray is imported anywhere: no files of its own loggers, no table of its own, no usage statistics, no warning
# about GPUs that it hides from tasks without any; its SIGINT handler gives way to ours, and an interrupted trial's last
# result needs no metric.
RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
MAY_CHANGE_ON_RESUME = ("checkpoint", "tracking", "tune.trials", "tune.concurrent", "data.cache_dir", "data.download")


class SweepWatcher(Protocol):
    """Who is told how a sweep goes."""

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None: ...

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None: ...

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What to do: a base spec that every trial's is made from, where Ray is, and how to hear of a wish to stop."""

    base: TrialSpec
    sweep_id: str
    resume: bool
    address: str | None
    should_stop: Callable[[], bool]

    @property
    def experiment(self) -> Experiment:
        """The experiment that the trials vary."""
        return self.base.experiment

    @property
    def config(self) -> TuneConfig:
        """The experiment's `tune` section."""
        assert self.experiment.tune is not None, "check_experiment has refused this"
        return self.experiment.tune

    @property
    def trials(self) -> int:
        """How many trials the sweep has in all: a grid has no more than its points."""
        if self.config.search != "grid":
            return self.config.trials
        from tuneyard.tune.space import grid  # imports Optuna

        return min(self.config.trials, len(grid(self.config.space)))

    @property
    def prefix(self) -> str:
        """Where the sweep lies in its store."""
        return f"{self.experiment.name}/{self.sweep_id}/"

    @property
    def cpus(self) -> int:
        """Cores of one trial."""
        wanted = self.experiment.resources.cpus_per_worker
        return 1 if wanted == "auto" else wanted

    @property
    def cpu_only(self) -> bool:
        """Must the trials stay off a GPU that is there? Ray does not hide it from a trial that asked for none."""
        return self.experiment.resources.gpus_per_worker == 0

    def spec(self, run_id: str, overrides: dict[str, Any], *, resume: bool) -> TrialSpec:
        """One trial's spec."""
        update = {
            "run_id": run_id, "experiment": with_overrides(self.experiment, overrides), "overrides": overrides,
            "sweep_id": self.sweep_id, "resume": resume, "evaluate_test": False,
        }  # fmt: skip
        return self.base.model_copy(update=update)


def run_sweep(request: SweepRequest, watcher: SweepWatcher) -> SweepRecord:
    """Run the sweep to its end, or until it is asked to stop; returns its record.

    Trials that fail are told to the watcher and leave the others alone. After a stop, or the loss of this process,
    the same request with `resume` runs what is missing: trials that ended are kept, those cut short go on.
    """
    store = open_request_store(request)
    record, earlier = _begin(request, store)
    os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
    from tuneyard.tune.driver import drive  # imports Ray, which reads the environment set above

    try:
        ended = drive(request, store, record, earlier, watcher)
    except BaseException:
        write_record(store, request.prefix, record.model_copy(update={"status": "failed", "ended": now()}))
        raise
    status: SweepStatus = "interrupted" if request.should_stop() else "completed"
    record = record.model_copy(
        update={
            "status": status, "ended": now(), "trials": ended.run_ids, "winner": ended.winner,
            "winner_test": ended.winner_test,
        }
    )  # fmt: skip
    write_record(store, request.prefix, record)
    return record


def open_request_store(request: SweepRequest) -> Store:
    """The store that the sweep and its trials lie in."""
    checkpoint = request.experiment.checkpoint
    return open_store(request.base.store_uri, endpoint_url=checkpoint.endpoint_url, region=checkpoint.region)


def new_sweep_id() -> str:
    """Readable, sorted by time, and different for two sweeps of one second."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.urandom(2).hex()}"


def failed_record(request: SweepRequest, run_id: str, overrides: dict[str, Any], error: str) -> RunRecord:
    """The record of a trial that could not write one itself."""
    try:
        experiment = with_overrides(request.experiment, overrides)
    except ConfigError:  # which is why it failed
        experiment = request.experiment
    return RunRecord(
        run_id=run_id, name=request.experiment.name, sweep_id=request.sweep_id, status="failed", error=error,
        metric=Metric(name=request.config.metric, mode=request.config.mode), overrides=overrides,
        experiment=experiment.model_dump(mode="json"), started=now(), ended=now(),
    )  # fmt: skip


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where Ray keeps its own state of the sweep; nothing in it is needed afterwards."""
    return tempfile.TemporaryDirectory(prefix="tuneyard-ray-", ignore_cleanup_errors=True)


def _begin(request: SweepRequest, store: Store) -> tuple[SweepRecord, list[EarlierTrial]]:
    metric = Metric(name=request.config.metric, mode=request.config.mode)
    if not request.resume:
        record = SweepRecord(
            sweep_id=request.sweep_id, name=request.experiment.name, metric=metric, started=now(),
            experiment=request.experiment.model_dump(mode="json"),
        )  # fmt: skip
        write_record(store, request.prefix, record)
        return record, []
    before = read_sweep(store, request.prefix)
    _refuse_changes(before, request.experiment)
    record = before.model_copy(update={"status": "running", "ended": None})
    write_record(store, request.prefix, record)
    return record, read_earlier(store, request.prefix)


def _refuse_changes(before: SweepRecord, experiment: Experiment) -> None:
    """A resumed sweep keeps its experiment; only how many trials it has, and how many at a time, may change."""
    for key, old, new in _differences(before.experiment, experiment.model_dump(mode="json"), ""):
        if not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE_ON_RESUME):
            raise ConfigError(
                f"{key} was {old!r} when sweep {before.sweep_id} began, and is {new!r}. Resume with the experiment as "
                "it was (tune.trials may grow), or start a new sweep."
            )


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new

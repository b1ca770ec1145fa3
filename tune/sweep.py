"""A sweep from experiment to winner: starts Ray, hands out trials, survives their failures, and can go on later."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import with_overrides
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.config.training import Prices
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import Metric, RunRecord, SweepRecord, SweepStatus, now, read_sweep, write_record
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.tune.changes import refuse_changes
from tuneyard.tune.desk import Leg
from tuneyard.tune.driver_lock import driving
from tuneyard.tune.earlier_sweeps import learn_from
from tuneyard.tune.history import fill_beside, read_earlier, read_trials
from tuneyard.tune.search.searcher import Tried
from tuneyard.tune.trials import Trial

# Before Ray is imported anywhere: no files of its own loggers, no table of its own, no usage statistics, no warning
# about GPUs that it hides from tasks without any; its SIGINT handler gives way to ours, an interrupted trial's last
# result needs no metric, and the experiment state that it would save every few seconds is read by nobody. As many legs
# may be pending as the searcher hands out, which knows how many fit: with Ray's limit of one, processes start one after
# the other, and a leg that waits for its own is moved to the first that comes free, while its own is stopped half-way.
RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class SweepWatcher(Protocol):
    """Who is told how a sweep goes."""

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None:
        """A run got its resources, for the first time or once more."""
        ...

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None: ...

    def trial_retried(self, run_id: str, error: str) -> None:
        """A run failed, and will be taken up again from its newest checkpoint."""
        ...

    def trial_moved(self, run_id: str, why: str) -> None:
        """A run's machine is being taken away; it will go on elsewhere from what it has saved."""
        ...

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None:
        """A run ended; "paused": it may be taken up again."""
        ...


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What to do: a base spec that every trial's is made from, where Ray is, and how to hear of a wish to stop.

    Attributes:
        resume: go on with the sweep of this id. `grow`: with so many trials more than it has, and the experiment's
            `tune` section may be another.
        warm_start: sweeps to learn from: ids of this experiment's, or folders and URIs.
        prices: what resources cost, for `tune.budget.money` and the account.
        driver: the number of the driver, counted over all that the sweep ever had.
    """

    base: TrialSpec
    sweep_id: str
    resume: bool
    address: str | None
    should_stop: Callable[[], bool]
    grow: int | None = None
    warm_start: tuple[str, ...] = ()
    prices: Prices = field(default_factory=Prices)
    driver: int = 0

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
    def metric(self) -> Metric:
        """What trials are compared by."""
        return Metric(name=self.config.metric, mode=self.config.mode)

    @property
    def prefix(self) -> str:
        """Where the sweep lies in its store."""
        return f"{self.experiment.name}/{self.sweep_id}/"

    @property
    def drive_id(self) -> str:
        """What this driver's trials hear its wishes under: those of a driver before it may still be at work."""
        return f"{self.sweep_id}-{self.driver}"

    @property
    def workers(self) -> int:
        """Worker processes of one run."""
        wanted = self.experiment.resources.workers
        return 1 if wanted == "auto" else wanted

    @property
    def cpus(self) -> int:
        """Cores of one worker."""
        wanted = self.experiment.resources.cpus_per_worker
        return 1 if wanted == "auto" else wanted

    @property
    def cpu_only(self) -> bool:
        """Must the trials stay off a GPU that is there? Ray does not hide it from a trial that asked for none."""
        return self.experiment.resources.gpus_per_worker == 0

    def spec(self, leg: Leg) -> TrialSpec:
        """The spec of one leg; raises ConfigError where its values do not go together."""
        update = {
            "run_id": leg.run_id, "trial_id": leg.trial_id, "part": leg.part, "overrides": leg.overrides,
            "experiment": with_overrides(self.experiment, leg.overrides | leg.settings), "sweep_id": self.sweep_id,
            "until_epoch": leg.until, "resume": leg.resume, "clone_of": leg.clone_of, "new_values": leg.new_values,
            "evaluate_test": False,
        }  # fmt: skip
        return self.base.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class Before:
    """What a sweep begins with: its record, its trials so far, and what others have tried."""

    record: SweepRecord
    trials: list[Trial]
    foreign: list[Tried]
    wanted: int
    """Trials in all."""


def run_sweep(request: SweepRequest, watcher: SweepWatcher) -> SweepRecord:
    """Run the sweep to its end, or until it is asked to stop; returns its record.

    Trials that fail are told to the watcher and leave the others alone. After a stop, or the loss of this process,
    the same request with `resume` runs what is missing: trials that ended are kept, those cut short go on. Raises
    ConfigError where another driver is at the sweep, FencedError where one took it over meanwhile.
    """
    store = open_request_store(request)
    with driving(store, request.prefix, f"sweep {request.sweep_id}") as lock:
        asked = request.should_stop
        request = replace(request, should_stop=lambda: lock.lost or asked(), driver=lock.number)
        before = _begin(request, store)
        os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
        from tuneyard.tune.driver import drive  # imports Ray, which reads the environment set above

        try:
            ended = drive(request, store, before, watcher, lock)
        except BaseException:
            lock.check()
            write_record(store, request.prefix, before.record.model_copy(update={"status": "failed", "ended": now()}))
            raise
        lock.check()
        status: SweepStatus = "interrupted" if request.should_stop() else "completed"
        record = ended.model_copy(update={"status": status, "ended": now()})
        write_record(store, request.prefix, record)
        return record


def open_request_store(request: SweepRequest) -> Store:
    """The store that the sweep and its trials lie in."""
    checkpoint = request.experiment.checkpoint
    return open_store(request.base.store_uri, checkpoint.s3_options)


def new_sweep_id() -> str:
    """Readable, sorted by time, and different for two sweeps of one second."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.urandom(2).hex()}"


def failed_record(request: SweepRequest, leg: Leg, error: str) -> RunRecord:
    """The record of a run that could not write one itself."""
    try:
        experiment = with_overrides(request.experiment, leg.overrides | leg.settings)
    except ConfigError:  # which is why it failed
        experiment = request.experiment
    return RunRecord(
        run_id=leg.run_id, trial_id=leg.trial_id, part=leg.part, name=request.experiment.name,
        sweep_id=request.sweep_id, status="failed", error=error, metric=request.metric, overrides=leg.overrides,
        experiment=experiment.model_dump(mode="json"), started=now(), ended=now(),
    )  # fmt: skip


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where Ray keeps its own state of the sweep; nothing in it is needed afterwards."""
    return tempfile.TemporaryDirectory(prefix="tuneyard-ray-", ignore_cleanup_errors=True)


def _begin(request: SweepRequest, store: Store) -> Before:
    foreign = [tried for sweep in request.warm_start for tried in learn_from(sweep, request.experiment, store)]
    if not request.resume:
        record = SweepRecord(
            sweep_id=request.sweep_id, name=request.experiment.name, metric=request.metric, started=now(),
            experiment=request.experiment.model_dump(mode="json"),
        )  # fmt: skip
        write_record(store, request.prefix, record)
        return Before(record, [], foreign, request.config.trials)
    stood = read_sweep(store, request.prefix)
    refuse_changes(stood, request.experiment, grows=request.grow is not None)
    trials = read_trials(store, request.prefix, request.experiment, request.metric)
    if request.grow is None:
        record, wanted = stood.model_copy(update={"status": "running", "ended": None}), request.config.trials
    else:
        runs = {run.record.run_id: run.record for run in read_earlier(store, request.prefix)}
        fill_beside(trials, runs, request.config)
        record, wanted = _grown(stood, request), len(trials) + request.grow
    write_record(store, request.prefix, record)
    return Before(record, trials, foreign, wanted)


def _grown(stood: SweepRecord, request: SweepRequest) -> SweepRecord:
    """The sweep's record with the experiment that it grows by."""
    update = {
        "status": "running", "ended": None, "metric": request.metric,
        "experiment": request.experiment.model_dump(mode="json"),
        "grown_from": [*stood.grown_from, stood.experiment.get("tune") or {}],
    }  # fmt: skip
    return stood.model_copy(update=update)

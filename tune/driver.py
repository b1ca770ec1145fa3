"""Drives a sweep on Ray Tune. Importing this imports Ray; `sweep.py` sets Ray's environment first."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, ResultGrid
from ray.tune.stopper import Stopper

from tuneyard.trainers.errors import ConfigError, StoreError
from tuneyard.trainers.evaluation import evaluate_on_test
from tuneyard.trainers.record import Metric, RunRecord, SweepRecord, now, read_run, write_record
from tuneyard.trainers.session import Session, available_cores
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.store import Store
from tuneyard.tune.asha import Asha
from tuneyard.tune.history import EarlierTrial, best_of, read_earlier
from tuneyard.tune.search import Finished, SpecMaker, SweepSearcher, build_strategy
from tuneyard.tune.stop_flag import ask_to_stop, forget_stop
from tuneyard.tune.sweep import SweepRequest, SweepWatcher, failed_record, scratch_folder
from tuneyard.tune.trial import Trial, TrialFailedError


@dataclass(frozen=True, slots=True)
class SweepEnd:
    """What came out."""

    run_ids: list[str]
    winner: str | None
    winner_test: dict[str, float] | None


def drive(
    request: SweepRequest, store: Store, before: SweepRecord, earlier: Sequence[EarlierTrial], watcher: SweepWatcher
) -> SweepEnd:  # fmt: skip
    """Run what is missing of the sweep, then the winner's test, unless the sweep had the same winner `before`."""
    config = request.config
    metric = Metric(name=config.metric, mode=config.mode)
    with _ray(request.address):
        forget_stop(request.sweep_id)  # of a sweep that was stopped on this cluster before, and goes on now
        gpus = _gpus(request)
        scheduler = Asha(config, request.experiment.train.epochs) if config.scheduler == "asha" else None
        if not request.should_stop():
            _tune(request, store, earlier, watcher, scheduler, gpus)
        trials = _settle(request, store, scheduler)
        best = best_of(trials, metric)
        winner = best.record if best else None
        test = before.winner_test if winner and winner.run_id == before.winner else None
        if winner and winner.data and winner.data.test and test is None and not request.should_stop():
            test = _test_winner(request, winner, gpus)
    run_ids = [trial.record.run_id for trial in trials]
    return SweepEnd(run_ids, winner.run_id if winner else None, test)


def _tune(
    request: SweepRequest, store: Store, earlier: Sequence[EarlierTrial], watcher: SweepWatcher,
    scheduler: Asha | None, gpus: float,
) -> ResultGrid | None:  # fmt: skip
    config = request.config
    ended = [trial for trial in earlier if trial.ended]
    resumed = [(trial.record.run_id, trial.record.overrides) for trial in earlier if not trial.ended]
    first = 1 + max((int(trial.record.run_id) for trial in earlier), default=0)
    strategy = build_strategy(config, drawn=first - 1)
    strategy.learn([_finished(trial, Metric(name=config.metric, mode=config.mode)) for trial in earlier])
    if scheduler is not None:
        for trial in ended:
            scheduler.learn(trial.record.run_id, trial.rows)
    new = max(request.trials - len(earlier), 0)
    if not resumed and not new:
        return None
    searcher = SweepSearcher(
        config, strategy, _spec_maker(request), resumed, first_number=first, new_trials=new,
    )  # fmt: skip
    resources = tune.PlacementGroupFactory([{"CPU": request.cpus, "GPU": gpus}])
    relay = _Relay(request, store, watcher, scheduler)
    with scratch_folder() as scratch, _quiet():
        tuner = tune.Tuner(
            tune.with_resources(Trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=scheduler, num_samples=len(resumed) + new, reuse_actors=True,
                max_concurrent_trials=config.concurrent,
            ),
            run_config=tune.RunConfig(
                name=request.sweep_id, storage_path=scratch, verbose=0, stop=_StopWhenAsked(request, relay, searcher),
                callbacks=[relay],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )  # fmt: skip
        return tuner.fit()


# Ray pickles its callbacks and the like with an experiment state of its own, which nothing of ours reads back: a sweep
# goes on from its trials' records.
_NOTHING: tuple[Any, ...] = (object, ())


class _Relay(Callback):
    """Tells the watcher what Ray tells us, and writes the record of a trial that died without one."""

    def __init__(self, request: SweepRequest, store: Store, watcher: SweepWatcher, scheduler: Asha | None) -> None:
        self._request, self._store, self._watcher, self._scheduler = request, store, watcher, scheduler
        self.running: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.running.add(trial.config["run_id"])
        self._watcher.trial_began(trial.config["run_id"], trial.config["overrides"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result:
            self._watcher.epoch_ended(trial.config["run_id"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run_id, result = trial.config["run_id"], trial.last_result
        if "failed" in result:
            self._failed(trial, result["failed"])
            return
        stopped = self._scheduler is not None and run_id in self._scheduler.stopped
        status = "interrupted" if result.get("interrupted") or not (stopped or result.get("finished")) else "completed"
        self._ended(run_id, "stopped" if stopped else status, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.config["run_id"] not in self.running:  # its process did not even start
            self.on_trial_start(iteration, trials, trial)
        self._failed(trial, _cause(trial))

    def _failed(self, trial: Any, error: str) -> None:
        run_id = trial.config["run_id"]
        prefix = f"{self._request.prefix}{run_id}/"
        try:
            record = read_run(self._store, prefix)
        except StoreError:
            record = failed_record(self._request, run_id, trial.config["overrides"], error)
        if record.status != "failed" or not record.error:
            # It could not be built, or its process died before it could say so itself.
            record = record.model_copy(update={"status": "failed", "error": error, "ended": now()})
        write_record(self._store, prefix, record)
        self._ended(run_id, "failed", record.error)

    def _ended(self, run_id: str, status: str, error: str | None) -> None:
        self.running.discard(run_id)
        self._watcher.trial_ended(run_id, status, error)


class _StopWhenAsked(Stopper):
    """Ends the experiment when the user asks for it.

    Ray gives trials ten seconds once an experiment is over, which a large checkpoint may not be saved in. So the trials
    hear of the wish through the flag, save, and end by themselves; the experiment is over when none is running.
    """

    def __init__(self, request: SweepRequest, relay: _Relay, searcher: SweepSearcher) -> None:
        self._request, self._relay, self._searcher = request, relay, searcher
        self._passed_on = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._request.should_stop() and not self._passed_on:
            self._passed_on = True
            self._searcher.stop()
            ask_to_stop(self._request.sweep_id)
        return self._passed_on and not self._relay.running

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING


def _cause(trial: Any) -> str:
    """The trial's own error, without Ray's remote traceback."""
    # Ray's own get_pickled_error looks where the file comes only later.
    path = trial.pickled_error_file
    error = ray.cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).is_file() else None
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TrialFailedError):
        return str(cause)
    if cause is None or isinstance(cause, ray.exceptions.RayActorError):
        return "its process died; was it killed, or out of memory?"
    return f"{type(cause).__name__}: {cause}".split("\n\nTraceback")[0]


def _finished(trial: EarlierTrial, metric: Metric) -> Finished:
    """What a strategy learns from a trial of before: of one that failed nothing but that it was tried."""
    values = trial.values(metric) if trial.record.status != "failed" else []
    return Finished(trial.record.overrides, values, stopped_early=trial.record.status != "completed")


def _spec_maker(request: SweepRequest) -> SpecMaker:
    def make(run_id: str, overrides: dict[str, Any], resume: bool) -> dict[str, Any]:
        config = {
            "run_id": run_id, "overrides": overrides, "cpus": request.cpus, "cpu_only": request.cpu_only,
            "sweep_id": request.sweep_id,
        }  # fmt: skip
        try:
            return config | {"spec": request.spec(run_id, overrides, resume=resume).model_dump_json()}
        except ConfigError as error:
            # Each value was checked alone; two that do not go together are this one trial's failure.
            return config | {"refused": str(error)}

    return make


def _settle(request: SweepRequest, store: Store, scheduler: Asha | None) -> list[EarlierTrial]:
    """Read all trials back, each with its true end.

    The last trial of a process cannot know that the scheduler, not the user, stopped it, and one whose process was lost
    has not said anything.
    """
    for trial in read_earlier(store, request.prefix):
        record = trial.record
        if record.status not in ("interrupted", "running"):
            continue
        stopped = scheduler is not None and record.run_id in scheduler.stopped
        update = {"status": "stopped", "error": None} if stopped else {"status": "interrupted"}
        write_record(store, f"{request.prefix}{record.run_id}/", record.model_copy(update=update))
    return read_earlier(store, request.prefix)


def _test_winner(request: SweepRequest, winner: RunRecord, gpus: float) -> dict[str, float]:
    """The one use of the test set in a sweep: the winner's best checkpoint, after everything was chosen."""
    spec = request.spec(winner.run_id, winner.overrides, resume=True)
    task = ray.remote(num_cpus=request.cpus, num_gpus=gpus)(_evaluate_remotely)
    metrics: dict[str, float] = ray.get(task.remote(spec.model_dump_json(), request.cpus, request.cpu_only))
    return metrics


def _evaluate_remotely(spec_json: str, threads: int, cpu_only: bool) -> dict[str, float]:
    session = Session(threads=threads, cpu=cpu_only)
    try:
        return evaluate_on_test(TrialSpec.model_validate_json(spec_json), session)
    finally:
        session.close()


def _gpus(request: SweepRequest) -> float:
    resources = request.experiment.resources
    available = ray.cluster_resources()
    gpus = resources.gpus_per_worker
    if gpus == "auto":
        gpus = 1 if available.get("GPU", 0) >= 1 else 0
    if gpus > available.get("GPU", 0) or request.cpus > available.get("CPU", 0):
        raise ConfigError(
            f"resources: a trial asks for {request.cpus} cores and {gpus} GPUs, and Ray has "
            f"{available.get('CPU', 0):g} and {available.get('GPU', 0):g} in all. Lower resources.cpus_per_worker or "
            "resources.gpus_per_worker."
        )
    return gpus


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray of our own on this machine, or the cluster at `address`; an already joined one is left as it is."""
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address is None else {}
    with _quiet():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)  # type: ignore[arg-type]
        except ConnectionError as error:
            raise ConfigError(f"There is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's advice to its own users is not for ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

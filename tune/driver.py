"""Drives a sweep on Ray Tune. Importing this imports Ray; `sweep.py` sets Ray's environment first."""

import logging
import signal
import statistics
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from tuneyard.trainers.checkpoints.collector import Collector, collecting
from tuneyard.trainers.checkpoints.fencing import replaced_in
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.evaluation import evaluate_on_test
from tuneyard.trainers.parallel.leaving import saving_s
from tuneyard.trainers.record import RunRecord, SweepRecord, read_run
from tuneyard.trainers.session import Session, available_cores
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.budget import Budget, Spent
from tuneyard.tune.departures import Departures
from tuneyard.tune.desk import Desk, Leg
from tuneyard.tune.driver_lock import DriverLock
from tuneyard.tune.folds import collect_out_of_fold
from tuneyard.tune.heartbeat import EndStill
from tuneyard.tune.index import IndexWriter
from tuneyard.tune.outcome import outcome
from tuneyard.tune.placing import Placing
from tuneyard.tune.project import project_here
from tuneyard.tune.ray_link import ConfigMaker, DeskScheduler, DeskSearcher, Relay, Room, StopWhenAsked
from tuneyard.tune.run_ends import RunEnds, settle
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.search.build_searcher import build_searcher
from tuneyard.tune.sweep import Before, SweepRequest, SweepWatcher, scratch_folder
from tuneyard.tune.trial import Trial
from tuneyard.tune.wishes import Wishes

log = logging.getLogger(__name__)

# Tune would write the driver's keys into the runtime environment of every trial, which the dashboard and Ray's logs
# show. Trials have what their node has.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)


def drive(
    request: SweepRequest, store: Store, before: Before, watcher: SweepWatcher, lock: DriverLock
) -> SweepRecord:  # fmt: skip
    """Run what is missing of the sweep, then the winner's test, unless the sweep had the same winner `before`.

    Raises FencedError where another driver has taken the sweep over.
    """
    with _ray(request.address):
        gpus = _gpus(request)
        desk = _desk(request, before, gpus)
        index = IndexWriter(store, request.prefix, desk.metric, lock.check)
        try:
            for trial in desk.trials.values():
                index.put(trial)
            if not request.should_stop():
                with collecting(Collector(store, request.prefix, replaced_in(store, request.prefix))):
                    _tune(request, store, desk, index, watcher, gpus, lock)
        finally:
            index.close()
        lock.check()
        settle(request, store, desk)
        record = outcome(before.record, desk)
        record = record.model_copy(update={"out_of_fold": _join_folds(request, store, desk, record)})
        if not request.should_stop():
            record = record.model_copy(
                update={"winner_test": _test_winner(request, store, before.record, record, gpus)}
            )
    return record


def _desk(request: SweepRequest, before: Before, gpus: float) -> Desk:
    experiment, config = request.experiment, request.config
    budget = Budget(
        config.budget, cpus=request.workers * request.cpus, gpus=request.workers * gpus, prices=request.prices,
        spent=Spent.model_validate(before.record.spent),
    )  # fmt: skip
    for sentence in budget.never_reached():
        log.warning(sentence)
    desk = Desk(
        experiment, config, searcher=build_searcher(config, Path(request.base.project_dir)),
        scheduler=build_scheduler(config, experiment.train.epochs), budget=budget, trials=before.wanted,
        foreign=before.foreign,
    )  # fmt: skip
    for trial in before.trials:
        desk.take_up(trial)
    return desk


def _tune(
    request: SweepRequest, store: Store, desk: Desk, index: IndexWriter, watcher: SweepWatcher, gpus: float,
    lock: DriverLock,
) -> None:  # fmt: skip
    one = {"CPU": float(request.cpus), "GPU": gpus}
    everything = {name: amount * request.workers for name, amount in one.items()}
    room = Room(everything, request.config.concurrent, lambda: departures.draining)
    searcher = DeskSearcher(desk, index, _config_maker(request, gpus), room)
    wishes = Wishes(request.drive_id)
    ends = RunEnds(request, store, searcher.legs, lock)
    departures = Departures(wishes.leave, saving_s(request.base), ends.last_words)
    relay = Relay(desk, index, watcher, departures, ends)
    placing = Placing(_needs(request, gpus), lambda: not relay.running)
    still = EndStill(request.experiment.resources.hang_timeout_s)
    stopper = StopWhenAsked(request, desk, relay, wishes, departures, lambda: searcher.error is not None)
    # One placement group for each trial: on one node where it fits, over several where it must.
    resources = tune.PlacementGroupFactory([one] * request.workers, strategy="PACK")
    with scratch_folder() as scratch, _quiet():
        tuner = tune.Tuner(
            tune.with_resources(Trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=DeskScheduler(desk, room, departures, placing), num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=request.sweep_id, storage_path=scratch, verbose=0, stop=stopper, callbacks=[relay, still],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )  # fmt: skip
        tuner.fit()
    departures.close()
    if searcher.error is not None:
        raise searcher.error
    for run_id in searcher.legs:
        if desk.run(run_id).state == "paused" and not request.should_stop():
            watcher.trial_ended(run_id, "stopped", None)  # nothing will take it up again


def _needs(request: SweepRequest, gpus: float) -> str:
    """What a trial asks for, in words."""
    one = f"{request.cpus} core{'' if request.cpus == 1 else 's'}"
    one += f" and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else ""
    return one if request.workers == 1 else f"{request.workers} workers with {one} each"


def _config_maker(request: SweepRequest, gpus: float) -> ConfigMaker:
    def make(leg: Leg) -> dict[str, Any]:
        config = {
            "run_id": leg.run_id, "overrides": leg.overrides, "workers": request.workers, "cpus": request.cpus,
            "gpus": gpus, "cpu_only": request.cpu_only, "sweep_id": request.drive_id,
            "memory_gb": request.experiment.resources.memory_per_worker_gb,
        }  # fmt: skip
        try:
            return config | {"spec": request.spec(leg).model_dump_json()}
        except ConfigError as error:
            # Each value was checked alone; two that do not go together are this one trial's failure.
            return config | {"refused": str(error)}

    return make


def _join_folds(request: SweepRequest, store: Store, desk: Desk, record: SweepRecord) -> dict[str, Any] | None:
    """Join the out-of-fold predictions of every trial whose folds are complete; the winner's summary."""
    winners = None
    for trial in desk.trials.values():
        if len(trial.runs) > 1 and trial.status == "completed":
            prefixes = {run.part["fold"]: f"{request.prefix}{run.run_id}/" for run in trial.runs}
            joined = collect_out_of_fold(store, prefixes, f"{request.prefix}{trial.trial_id}/out_of_fold.npz")
            winners = asdict(joined) if trial.trial_id == record.winner else winners
    return winners


def _test_winner(
    request: SweepRequest, store: Store, before: SweepRecord, record: SweepRecord, gpus: float
) -> dict[str, float] | None:
    """The one use of the test set in a sweep: the winner's best checkpoints, after everything was chosen.

    Of several folds the mean.
    """
    if record.winner == before.winner and before.winner_test is not None:
        return before.winner_test
    records = [read_run(store, f"{request.prefix}{run_id}/") for run_id in record.winner_runs]
    if not records or not all(one.data and one.data.test for one in records):
        return None
    task = ray.remote(num_cpus=request.cpus, num_gpus=gpus)(_evaluate_remotely)
    tests = ray.get([task.remote(_test_spec(request, one), request.cpus, request.cpu_only) for one in records])
    return {name: statistics.fmean(test[name] for test in tests) for name in tests[0]}


def _test_spec(request: SweepRequest, record: RunRecord) -> str:
    # One process evaluates, whatever it took to train: checkpoints are the same under every strategy.
    settings: dict[str, Any] = {"train.strategy": "ddp"}
    if "fold" in record.part:
        settings["data.validation.fold"] = record.part["fold"]
    leg = Leg(
        record.run_id, record.trial_id or record.run_id, record.part, record.overrides, settings, None, resume=True
    )
    return request.spec(leg).model_dump_json()


def _evaluate_remotely(spec_json: str, threads: int, cpu_only: bool) -> dict[str, float]:
    session = Session(threads=threads, cpu=cpu_only)
    try:
        return evaluate_on_test(project_here(TrialSpec.model_validate_json(spec_json)), session)
    finally:
        session.close()


def _gpus(request: SweepRequest) -> float:
    """GPUs of one worker; ConfigError where Ray has not what one trial asks for."""
    available = ray.cluster_resources()
    wanted = request.experiment.resources.gpus_per_worker
    gpus = float((1 if available.get("GPU", 0) >= request.workers else 0) if wanted == "auto" else wanted)
    cpus_in_all, gpus_in_all = request.cpus * request.workers, gpus * request.workers
    if gpus_in_all > available.get("GPU", 0) or cpus_in_all > available.get("CPU", 0):
        raise ConfigError(
            f"resources: a trial asks for {cpus_in_all} cores and {gpus_in_all:g} GPUs ({request.workers} worker(s)), "
            f"and Ray has {available.get('CPU', 0):g} and {available.get('GPU', 0):g} in all. Lower resources.workers, "
            "resources.cpus_per_worker or resources.gpus_per_worker, or add nodes."
        )
    return gpus


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray of our own on this machine, or the cluster at `address`; an already joined one is left as it is."""
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address is None else {}
    with _quiet(), _same_sigterm():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)  # type: ignore[arg-type]
        except ConnectionError as error:
            raise ConfigError(f"There is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Joining Ray makes SIGTERM end the process at once; to us it is a wish that the trials save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's advice to its own users is not for ours, nor its list of the legs that failed, which are told already."""
    ray_log = logging.getLogger("ray")
    level = ray_log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray_log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            ray_log.setLevel(level)

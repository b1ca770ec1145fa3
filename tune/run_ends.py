"""The ends of runs as the driver writes them: of those that could not say it themselves, and of all when it is over."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from tuneyard.trainers.errors import ConfigError, MissingKeyError, StoreError
from tuneyard.trainers.parallel import leaving
from tuneyard.trainers.record import RunRecord, now, read_run, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.desk import Desk, Leg
from tuneyard.tune.driver_lock import DriverLock
from tuneyard.tune.history import READERS
from tuneyard.tune.sweep import SweepRequest, failed_record
from tuneyard.tune.trials import TrialRun


class RunEnds:
    """Writes the end of a run whose process is gone.

    Args:
        legs: run id -> the newest leg of that run.
    """

    def __init__(self, request: SweepRequest, store: Store, legs: Mapping[str, Leg], lock: DriverLock) -> None:
        self._request, self._store, self._legs, self._lock = request, store, legs, lock

    def failed(self, run_id: str, error: str, out_of_memory: bool, /) -> RunRecord:
        """It failed for good; what its own process had time to say of that counts more than `error`."""
        leg = self._legs[run_id]
        if self._lock.lost:  # its record is another driver's
            return failed_record(self._request, leg, error)
        try:
            record = read_run(self._store, self._prefix(run_id))
        except StoreError:
            record = failed_record(self._request, leg, error)
        if record.status != "failed" or not record.error:
            # It could not be built, or its process died before it could say so itself.
            record = record.model_copy(update={"status": "failed", "error": error, "ended": now()})
        update = {"undecided": False} | ({"out_of_memory": True} if out_of_memory else {})
        record = record.model_copy(update=update)
        write_record(self._store, self._prefix(run_id), record)
        return record

    def late(self, run_id: str, words: str, /) -> None:
        """It was asked to leave, and ended since it had not. Where it has no record yet it needs none."""
        if self._lock.lost:
            return
        try:
            record = read_run(self._store, self._prefix(run_id))
        except MissingKeyError:
            return
        update = {"status": "interrupted", "error": words, "ended": now(), "undecided": False}
        write_record(self._store, self._prefix(run_id), record.model_copy(update=update))

    def last_words(self, run_id: str, machine_s: float | None) -> str:
        """Why it goes on from an older checkpoint, and which. `machine_s`: so long its machine was there."""
        try:
            spec = self._request.spec(self._legs[run_id])
        except ConfigError as error:  # it has nothing to save
            return str(error)
        if machine_s is None:
            return leaving.too_late(spec)
        return leaving.last_words(spec, f"did not save in the {machine_s:.0f} s that its machine had left")

    def _prefix(self, run_id: str) -> str:
        return f"{self._request.prefix}{run_id}/"


def settle(request: SweepRequest, store: Store, desk: Desk) -> None:
    """Write each run's true end into its record.

    A run cannot know that its pause was for good, nor that the budget, and not the scheduler, stopped it; and one whose
    process was lost has not said anything.
    """
    paused = "paused" if request.should_stop() else "stopped"
    # Running: its processes were still starting as the sweep was stopped, and its record is of before.
    ends = {"paused": paused, "waiting": "interrupted", "running": "interrupted", "stopped": "stopped"}
    runs = [run for trial in desk.trials.values() for run in trial.runs + trial.confirming]

    def settle_one(run: TrialRun) -> None:
        prefix = f"{request.prefix}{run.run_id}/"
        try:
            record = read_run(store, prefix)
        except MissingKeyError:
            run.begun = False  # it was stopped before it came to anything
            return
        if run.state == "waiting" and record.undecided:
            return  # it tells why the run is to be tried again, and the next driver takes it up
        if run.state in ends and record.status != ends[run.state]:
            update = {"status": ends[run.state], "error": None, "undecided": False}
            write_record(store, prefix, record.model_copy(update=update))
        elif run.state == "failed" and record.undecided:  # said once more, by a process that was cut off
            write_record(store, prefix, record.model_copy(update={"undecided": False}))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(settle_one, [run for run in runs if run.begun]))

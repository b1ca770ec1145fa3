"""Ray Tune's searcher, scheduler, callback and stopper: four small faces of the one desk.

Every leg is a trial to Ray; `reuse_actors` keeps its processes for the next leg. Ray pickles these objects with an
experiment state of its own, which nothing of ours reads back: a sweep goes on from its index and its runs' records.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tuneyard.trainers.record import RunRecord
from tuneyard.tune.departures import Departures
from tuneyard.tune.desk import Desk, How, Leg
from tuneyard.tune.index import IndexWriter
from tuneyard.tune.placing import Placing
from tuneyard.tune.ray_place import RayPlace, resources_without
from tuneyard.tune.sweep import SweepRequest, SweepWatcher
from tuneyard.tune.trial import TrialFailedError
from tuneyard.tune.wishes import Wishes

SECONDS_BETWEEN_COUNTS = 2.0
_NOTHING: tuple[Any, ...] = (object, ())


class ConfigMaker(Protocol):
    """Makes Ray's config of a leg."""

    def __call__(self, leg: Leg, /) -> dict[str, Any]: ...


class EndWriter(Protocol):
    """Writes a run's end into its record, from the driver."""

    def failed(self, run_id: str, error: str, out_of_memory: bool, /) -> RunRecord:
        """It failed; what its own process had time to say of that counts more than `error`."""
        ...

    def late(self, run_id: str, words: str, /) -> None:
        """It was asked to leave, and ended since it had not."""
        ...


class DeskSearcher(Searcher):
    """Hands Ray one leg at a time, when there is room for it.

    Args:
        room: how many legs the cluster can hold now.
    """

    def __init__(self, desk: Desk, index: IndexWriter, configs: ConfigMaker, room: Callable[[], int]) -> None:
        super().__init__(metric=desk.metric.name, mode=desk.metric.mode)
        self._desk, self._index, self._configs, self._room = desk, index, configs, room
        self.legs: dict[str, Leg] = {}
        self.error: BaseException | None = None

    # Ray's annotation leaves out FINISHED, which its own documentation asks for.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The config of the next leg; None where none is to start now, FINISHED when the sweep is over."""
        # A leg that were chosen now and started later would be chosen without knowing what happens until then.
        if self._desk.live >= max(self._room(), 1):
            return None
        try:
            leg = self._desk.next_leg()
        except Exception as error:  # noqa: BLE001 - the searcher may be the user's own; `drive` raises it again
            self.error = error
            self._desk.stop()
            leg = None
        if leg is None:
            return Searcher.FINISHED if self._desk.over else None
        self.legs[leg.run_id] = leg
        self._index.put(self._desk.trials[leg.trial_id])
        return self._configs(leg)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback tells the desk."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see the module."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see the module."""


class DeskScheduler(FIFOScheduler):
    """Passes the desk's verdict on, and sees to it that Ray keeps every process for the next leg.

    Args:
        room: how many legs the cluster can hold now.
        departures, placing: look at Ray each time that it asks for something to start.
    """

    def __init__(self, desk: Desk, room: Callable[[], int], departures: Departures, placing: Placing) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desk, self._room, self._departures, self._placing = desk, room, departures, placing
        self._kept = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Ray's choice. Left to itself, it ends all processes but one that find no leg at once, as before a rung."""
        place = RayPlace(tune_controller)
        self._departures.look(place)
        self._placing.look(place)
        cache = getattr(tune_controller, "_actor_cache", None)
        room = self._room()
        if cache is not None and room > self._kept:
            for trial in tune_controller.get_live_trials():
                cache.increase_max(trial.placement_group_factory, by=room - self._kept)
                self._kept = room
                break
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's question after each epoch."""
        goes_on = "epoch" not in result or self._desk.epoch_ended(trial.config["run_id"], result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING


class Relay(Callback):
    """Tells the desk, the index and the watcher what Ray tells us.

    Args:
        records: writes a run's end where the run could not do so itself.
    """

    def __init__(
        self, desk: Desk, index: IndexWriter, watcher: SweepWatcher, departures: Departures, records: EndWriter
    ) -> None:
        self._desk, self._index, self._watcher = desk, index, watcher
        self._departures, self._records = departures, records
        self.running: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run_id = trial.config["run_id"]
        self.running.add(run_id)
        self._watcher.trial_began(run_id, trial.config["overrides"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result:
            # Ray asks the scheduler about no epoch that is a leg's last; the desk knows those it has heard of.
            self._desk.epoch_ended(trial.config["run_id"], result)
            self._watcher.epoch_ended(trial.config["run_id"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        if "failed" in result:
            how: How = "out_of_memory" if result.get("out_of_memory") else "refused"
            self._failed(trial.config["run_id"], how, result["failed"])
            return
        for key in ("interrupted", "finished", "paused"):
            if result.get(key):
                self._ended(trial.config["run_id"], key)
                return
        self._ended(trial.config["run_id"], "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run_id = trial.config["run_id"]
        if run_id not in self.running:  # its process did not even start
            self.on_trial_start(iteration, trials, trial)
        error = _error_of(trial)
        how, told = _how(error), _told(error)
        drained = self._departures.drained(run_id)
        if how == "lost" and drained:
            how, told = "preempted", f"its machine was taken away: {told}"
        late = self._departures.late(run_id)
        if late is not None:
            self._records.late(run_id, late)
            how, told = "preempted" if drained else "interrupted", late
        if how == "interrupted":
            self._ended(run_id, how, told)
        else:
            self._failed(run_id, how, told)

    def _failed(self, run_id: str, how: How, error: str) -> None:
        again = self._desk.leg_ended(run_id, how)
        self._note(run_id)
        if again and how in ("preempted", "left"):
            self._watcher.trial_moved(run_id, error)
            return
        if again:
            self._watcher.trial_retried(run_id, error)
            return
        record = self._records.failed(run_id, error, how == "out_of_memory")
        self._watcher.trial_ended(run_id, "failed", record.error)

    def _ended(self, run_id: str, how: How, error: str | None = None) -> None:
        self._desk.leg_ended(run_id, how)
        self._note(run_id)
        state = self._desk.run(run_id).state
        self._watcher.trial_ended(run_id, "interrupted" if state == "waiting" else state, error)

    def _note(self, run_id: str) -> None:
        self.running.discard(run_id)
        self._departures.left(run_id)
        self._index.put(self._desk.trials[self._desk.run(run_id).trial_id])


class StopWhenAsked(Stopper):
    """Passes a wish to stop on to the running legs, which save and leave; ends the sweep when they have.

    Ray itself would end them without their saving.
    """

    def __init__(
        self, request: SweepRequest, desk: Desk, relay: Relay, wishes: Wishes, departures: Departures,
        failure: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._request, self._desk, self._relay, self._failure = request, desk, relay, failure
        self._wishes, self._departures = wishes, departures
        self._passed_on = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Is everything over?"""
        if not self._passed_on and (self._request.should_stop() or self._failure()):
            self._passed_on = True
            self._desk.stop()
            self._wishes.stop()
            self._departures.stop()
        return self._passed_on and not self._relay.running

    def __reduce__(self) -> tuple[Any, ...]:
        return _NOTHING


class Room:
    """How many runs the cluster can hold, looked up anew as nodes come and go."""

    def __init__(
        self, needs: dict[str, float], most: int | None, draining: Callable[[], Collection[str]]
    ) -> None:  # fmt: skip
        """needs: resource -> amount of one run, all its workers together. most: not more, whatever there is.

        draining: the nodes that get no new work.
        """
        self._needs, self._most, self._draining = needs, most, draining
        self._counted = -SECONDS_BETWEEN_COUNTS
        self._room = 0

    def __call__(self) -> int:
        if time.monotonic() - self._counted >= SECONDS_BETWEEN_COUNTS:
            self._counted = time.monotonic()
            there = resources_without(self._draining())
            fits = [int(there.get(name, 0.0) / amount + 1e-6) for name, amount in self._needs.items() if amount > 0]
            self._room = min([*fits, *([self._most] if self._most is not None else [])])
        return self._room


def _error_of(trial: Any) -> BaseException | None:
    # Ray's own get_pickled_error looks where the file comes only later.
    path = trial.pickled_error_file
    error = ray.cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).is_file() else None
    cause: BaseException | None = getattr(error, "cause", None) or error
    return cause


def _how(error: BaseException | None) -> How:
    """Whose fault it was that the processes are gone."""
    if isinstance(error, TrialFailedError):
        return error.how
    if getattr(error, "preempted", False):
        return "preempted"
    # Ray ends a process where its machine runs out of memory, and says so in the error's text.
    killed_for_memory = isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)
    return "out_of_memory" if killed_for_memory else "lost"


def _told(cause: BaseException | None) -> str:
    """The trial's own error, without Ray's remote traceback."""
    if isinstance(cause, TrialFailedError):
        return str(cause)
    if cause is None or isinstance(cause, ray.exceptions.RayActorError):
        return "its process died; was it killed, or out of memory?"
    return f"{type(cause).__name__}: {cause}".split("\n\nTraceback")[0]

"""A trial as Ray Tune sees it: a Trainable that is kept, with its process, imports and data, from trial to trial."""

import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ray import tune

from tuneyard.trainers.errors import ConfigError, InterruptedRunError, TuneyardError
from tuneyard.trainers.loop import EpochResult
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunStatus, read_metrics
from tuneyard.trainers.run import Run
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.cores import ClaimedCores
from tuneyard.tune.stop_flag import StopFlag


class TrialFailedError(Exception):
    """What a trial failed with, as text: the driver cannot unpickle an exception of the user's own task.py."""


class Trial(tune.Trainable):
    """One epoch a step. The config is `{"run_id", "spec": TrialSpec as JSON, "cpus", "cpu_only", "sweep_id"}`.

    Instead of the spec there is `refused`, the error, where the trial's values do not go together.

    Checkpoints go past Ray, from the run straight to its store. A run is built in its first step and not before, so
    that a trial that cannot be built fails alone.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """A new process: claim cores, then take the first trial."""
        self._claimed = ClaimedCores(config["cpus"])
        self._claimed.pin()
        self._session = Session(threads=config["cpus"], cpu=config["cpu_only"])
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial for this process. The one before, if it had not ended, was stopped by the scheduler."""
        self._end_quietly("stopped")
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; the result is its row of metrics and whether it was the last one."""
        if self._run is None and self._stop.asked():
            return {"interrupted": True, "done": True}
        try:
            result = next(self._open(), None)
            if result is None:
                return self._end_lost()
            row = dict(result.metrics)
            finished = row["epoch"] >= self._spec.experiment.train.epochs
            if finished:
                self._end("completed")
            return row | {"finished": finished, "done": finished}
        except InterruptedRunError as error:
            self._end("interrupted", str(error))
            return {"interrupted": True, "done": True}
        except TuneyardError as error:
            # Told and understood: this process is as good as before, and takes the next trial.
            text = _told(error)
            self._end_quietly("failed", text)
            return {"failed": text, "done": True}
        except BaseException as error:
            text = _told(error)
            self._end_quietly("failed", text)
            raise TrialFailedError(text) from error

    def cleanup(self) -> None:
        """The process is let go: end the last run, and wait until Comet has everything."""
        self._end_quietly("interrupted")
        self._session.close()
        self._claimed.release()

    def _take(self, config: dict[str, Any]) -> None:
        self._refused: str | None = config.get("refused")
        self._stop = StopFlag(config["sweep_id"])
        if self._refused is None:
            self._spec = TrialSpec.model_validate_json(config["spec"])
        self._run: Run | None = None
        self._epochs: Iterator[EpochResult] | None = None

    def _open(self) -> Iterator[EpochResult]:
        if self._refused is not None:
            raise ConfigError(self._refused)
        if self._run is None or self._epochs is None:
            self._run = Run(self._spec, self._session, Silent(), self._stop.asked)
            self._epochs = self._run.epochs()
        return self._epochs

    def _end_lost(self) -> dict[str, Any]:
        """End a run whose process was lost between its last epoch's checkpoint and its end."""
        assert self._run is not None, "it was opened"
        store = self._run.store
        self._end("completed")
        return read_metrics(store, self._spec.prefix)[-1] | {"finished": True, "done": True}

    def _end_quietly(self, status: RunStatus, error: str | None = None) -> None:
        """End a run that Ray has done with: what goes wrong is in its record, and is not the next trial's fault."""
        with suppress(TuneyardError):
            self._end(status, error)

    def _end(self, status: RunStatus, error: str | None = None) -> None:
        run, self._run, self._epochs = self._run, None, None
        if run is not None:
            run.finish(status, error)


def _told(error: BaseException) -> str:
    """The error on one line; below it, unless its text was written for the user, where it came from."""
    text = f"{type(error).__name__}: {error}"
    return text if isinstance(error, TuneyardError) else f"{text}\n\n{traceback.format_exc()}"

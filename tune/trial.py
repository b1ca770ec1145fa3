"""A trial as Ray Tune sees it: a Trainable that is kept, with its process, imports and data, from trial to trial."""

from collections.abc import Iterator
from typing import Any

from ray import tune

from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.loop import EpochResult
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunStatus
from tuneyard.trainers.run import Run
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.cores import ClaimedCores
from tuneyard.tune.stop_flag import StopFlag


class Trial(tune.Trainable):
    """One epoch a step. The config is `{"run_id", "spec": TrialSpec as JSON, "cpus"}`.

    Checkpoints go past Ray, from the run straight to its store. A run is built in its first step and not before, so
    that a trial that cannot be built fails alone.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """A new process: claim cores, then take the first trial."""
        self._claimed = ClaimedCores(config["cpus"])
        self._claimed.pin()
        self._session = Session(threads=config["cpus"])
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial for this process. The one before, if it had not ended, was stopped by the scheduler."""
        self._end("stopped")
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; the result is its row of metrics and whether it was the last one."""
        try:
            row = dict(next(self._open()).metrics)
            finished = row["epoch"] >= self._spec.experiment.train.epochs
            if finished:
                self._end("completed")
            return row | {"finished": finished, "done": finished}
        except InterruptedRunError as error:
            self._end("interrupted", str(error))
            return {"interrupted": True, "done": True}
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise

    def cleanup(self) -> None:
        """The process is let go: end the last run, and wait until Comet has everything."""
        self._end("interrupted")
        self._session.close()
        self._claimed.release()

    def _take(self, config: dict[str, Any]) -> None:
        self._spec = TrialSpec.model_validate_json(config["spec"])
        self._stop = StopFlag(self._spec.sweep_id or "")
        self._run: Run | None = None
        self._epochs: Iterator[EpochResult] | None = None

    def _open(self) -> Iterator[EpochResult]:
        if self._run is None or self._epochs is None:
            self._run = Run(self._spec, self._session, Silent(), self._stop.asked)
            self._epochs = self._run.epochs()
        return self._epochs

    def _end(self, status: RunStatus, error: str | None = None) -> None:
        run, self._run, self._epochs = self._run, None, None
        if run is not None:
            run.finish(status, error)

"""A trial as Ray Tune sees it: a Trainable that is kept, with its processes, imports and data, from trial to trial."""

from contextlib import suppress
from typing import Any, Literal

from ray import tune

from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.record import RunStatus
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.heartbeat import Heart
from tuneyard.tune.project import project_here
from tuneyard.tune.wishes import Asked
from tuneyard.tune.worker import Failure, Resources, Trained, Worker
from tuneyard.tune.workers import Workers


class TrialFailedError(Exception):
    """What a trial failed with, as text: the driver cannot unpickle an exception of the user's own task.py.

    Attributes:
        how: whose fault it was. left: nobody's, the trial has saved and left a machine that is being taken away.
    """

    def __init__(self, text: str, how: Literal["refused", "out_of_memory", "lost", "preempted", "left"]) -> None:
        super().__init__(text, how)
        self.how = how

    def __str__(self) -> str:
        return str(self.args[0])


class Trial(tune.Trainable):
    """One epoch a step, on all workers of the trial; this process is worker 0, in the first bundle of the trial.

    The config is `{"run_id", "spec": TrialSpec as JSON, "workers", "cpus", "gpus", "cpu_only", "memory_gb",
    "sweep_id"}`, of which all but the first two, which are the leg's, stay the same in a sweep. Instead of the spec
    there is `refused`, the error, where the trial's values do not go together.

    A step's result is the epoch's row of metrics and one of `finished`, `paused` (saved, to go on later), or no row and
    `interrupted` or `failed`, the error, with `out_of_memory`. A failure that its processes do not outlive is raised,
    and so is the order to leave this machine: no other trial is to train in them.

    Checkpoints go past Ray, from the run straight to its store. A run is built in its first step and not before, so
    that a trial that cannot be built fails alone.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """A new process: claim cores, start the other workers, then take the first trial."""
        resources = Resources(config["cpus"], config["gpus"], config["cpu_only"], config["memory_gb"])
        self._kept_group = resources.backend == "gloo"
        self._worker = Worker(resources)
        self._workers = Workers(self._worker, resources, config["workers"], self._record_stuck)
        self._leg, self._begun = 0, False
        self._spec: TrialSpec
        self._heart: Heart | None = None
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial for this process. The one before, if it had not ended, was stopped by the scheduler."""
        self._worker.end("stopped")
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        if self._refused is not None:
            return {"failed": f"ConfigError: {self._refused}", "done": True}
        if not self._begun and self._asked():
            return self._interrupted("it had not begun", saved=False)
        self._begun = True
        answer, kept = self._workers.train_epoch(self._spec, self._leg, self._asked)
        if isinstance(answer, Trained):
            finished, paused = answer.state == "finished", answer.state == "paused"
            row = answer.row | {"finished": finished, "done": finished or paused}
            return row | {"paused": True} if paused else row
        return self._failed(answer, kept)

    def cleanup(self) -> None:
        """The process is let go: end the last run and the other workers, and wait until Comet has everything."""
        self._worker.end("interrupted")
        self._workers.dismiss()
        self._worker.close()
        if self._heart is not None:
            self._heart.stop()

    def _take(self, config: dict[str, Any]) -> None:
        self._refused: str | None = config.get("refused")
        self._asked = Asked(config["sweep_id"])
        self._begun = False
        self._leg += 1
        if self._refused is None:
            self._spec = project_here(TrialSpec.model_validate_json(config["spec"]))
            if self._heart is None:
                self._heart = Heart(self._spec.experiment.resources.hang_timeout_s)
                self._heart.start()
        self._workers.start()

    def _failed(self, failure: Failure, kept: bool) -> dict[str, Any]:
        """End the run with its cause. Raises TrialFailedError where these processes cannot take another trial."""
        status: RunStatus = "interrupted" if failure.interrupted else "failed"
        text = failure.text.removeprefix("InterruptedRunError: ") if failure.interrupted else failure.text
        saved = self._worker.end(status, text, out_of_memory=failure.out_of_memory)
        if failure.interrupted:
            if not kept:
                self._workers.dismiss()
            return self._interrupted(text, saved)
        if failure.out_of_memory:
            # Worker 0 can go on with new workers, unless NCCL is left in the middle of an exchange.
            kept = self._worker.release() and (kept or self._kept_group)
        if not kept:
            self._workers.dismiss()
            raise TrialFailedError(failure.text, how_it_failed(failure))
        return {"failed": failure.text, "done": True} | ({"out_of_memory": True} if failure.out_of_memory else {})

    def _interrupted(self, text: str, saved: bool) -> dict[str, Any]:
        """The result of a leg that was asked to end; raised where it has to leave this machine."""
        if self._asked.wish != "leave":
            return {"interrupted": True, "done": True}
        self._workers.dismiss()
        raise TrialFailedError(f"its machine is being taken away ({text})", "left" if saved else "preempted")

    def _record_stuck(self, cause: Failure) -> None:
        """Leave the cause where the driver finds it: this process is about to end, in the middle of its run."""
        with suppress(TuneyardError):
            self._worker.record_failure(self._spec, cause.text)


def how_it_failed(failure: Failure) -> Literal["refused", "out_of_memory", "lost", "preempted"]:
    """Whose fault it was that these processes cannot go on."""
    if failure.preempted:
        return "preempted"
    if failure.out_of_memory:
        return "out_of_memory"
    # One worker alone has told it, so the others are gone; it would tell the same again.
    return "refused" if failure.understood else "lost"

"""One worker of a trial: a process that is kept, with its imports, data and cores, and trains one run after another.

Nothing here knows of Ray. What workers tell each other is plain data: an exception of the user's own task.py could not
be read in another process.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.loop import EpochResult
from tuneyard.trainers.memory import ran_out_of_memory, release_memory
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import Metric, RunRecord, RunStatus, now, read_metrics, read_run, write_record
from tuneyard.trainers.run import Run
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.cores import ClaimedCores


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker gets. `gpus`: a share of one GPU, or one. `cpu_only`: stay off a GPU that is there."""

    cpus: int
    gpus: float
    cpu_only: bool
    memory_gb: float | None = None

    @property
    def backend(self) -> process_group.Backend:
        """How such workers talk: NCCL refuses two on one GPU."""
        return "nccl" if self.gpus >= 1 and not self.cpu_only and torch.cuda.is_available() else "gloo"


@dataclass(frozen=True, slots=True)
class Trained:
    """An epoch was trained. `row`: its metrics. `state`: training goes on, or the run has ended or paused, saved."""

    row: dict[str, Any]
    state: Literal["running", "finished", "paused"] = "running"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a worker failed with.

    Attributes:
        kind: the exception's class. `text`: what to tell; below the first line, unless the text was written for the
            user, where it happened.
        understood: the worker is as good as before, and can take the next trial.
        link: the link to another worker broke, so that the cause is perhaps to be found there.
        lost: the worker is gone. `preempted`: because its machine was taken away.
    """

    kind: str
    text: str
    understood: bool = False
    interrupted: bool = False
    out_of_memory: bool = False
    link: bool = False
    lost: bool = False
    preempted: bool = False

    def on(self, worker: str) -> "Failure":
        """The same, with the worker named in its first line."""
        first, *rest = self.text.split("\n", 1)
        return replace(self, text="\n".join([f"{first} ({worker})", *rest]))


Answer = Trained | Failure


class Worker:
    """Trains what it is given, in the process it is made in. Its methods answer with a Failure, and raise nothing."""

    def __init__(self, resources: Resources, rank: int = 0) -> None:
        self._resources, self._rank = resources, rank
        self._cores = ClaimedCores(resources.cpus)
        self._cores.pin()
        share = resources.gpus if resources.gpus > 0 else 1.0
        self._session = Session(threads=resources.cpus, cpu=resources.cpu_only, gpu_share=share)
        self._leg = 0
        self._run: Run | None = None
        self._epochs: Iterator[EpochResult] | None = None

    def join(self, workers: int, address: str, port: int, interface: str, timeout_s: float) -> Failure | None:
        """Join the trial's process group, which is kept from then on."""
        try:
            process_group.join(
                rank=self._rank, world_size=workers, address=address, port=port, interface_address=interface,
                backend=self._resources.backend, timeout_s=timeout_s,
                # Ray shows each worker its own GPU alone, so each is the first on a machine of its own.
                local_rank=0, local_world_size=1,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - told to worker 0
            return _failure(error)
        return None

    def leave(self) -> None:
        """Leave the group, whatever state it is in."""
        with suppress(RuntimeError):
            process_group.leave()

    def train_epoch(self, spec: TrialSpec, leg: int, should_stop: Callable[[], bool]) -> Answer:
        """Train the next epoch of this leg, and end the run if it was the last one, or the last one before a pause.

        The run is built in its first epoch. After a Failure it is still open: `end` it with the cause.

        Raises SystemExit where Ray ends this process (SIGTERM): who has Ray do so knows why, and will say it.
        """
        try:
            if self._leg != leg:
                self.end("stopped")
                self._leg = leg
                self._open(spec, should_stop)
            return self._next()
        except BaseException as error:  # SystemExit in the user's code too is the trial's failure alone
            if hasattr(error, "ray_terminate_msg"):
                raise
            return _failure(error)

    def end(self, status: RunStatus, error: str | None = None, *, out_of_memory: bool = False) -> bool:
        """End an open run that is to train no more. What goes wrong with that is in its record.

        Was there one, and is what it had to save durable?
        """
        if self._run is None:
            return False
        try:
            self._finish(status, error, out_of_memory)
        except TuneyardError:
            return False
        return True

    def release(self) -> bool:
        """Give back the memory of a run that had too much. False where the process must end to give it back."""
        limit_gb = self._resources.memory_gb
        return release_memory(limit_gb * 1e9 if limit_gb is not None else None)

    def record_failure(self, spec: TrialSpec, error: str) -> None:
        """Write that the run has failed of this, from another thread, while this worker cannot.

        Raises FencedError where another process trains the run by now.
        """
        store = self._session.store(spec)
        if self._run is not None and self._run.fence is not None:
            self._run.fence.check()
        try:
            record = read_run(store, spec.prefix)
        except TuneyardError:
            tune = spec.experiment.tune
            metric = Metric(name=tune.metric, mode=tune.mode) if tune else Metric(name="", mode="max")
            record = RunRecord(
                run_id=spec.run_id, name=spec.experiment.name, sweep_id=spec.sweep_id, trial_id=spec.trial_id,
                part=spec.part, metric=metric, experiment=spec.experiment.model_dump(mode="json"),
                overrides=spec.overrides, started=now(),
            )  # fmt: skip
        update = {"status": "failed", "error": error, "ended": now(), "undecided": True}
        write_record(store, spec.prefix, record.model_copy(update=update))

    def close(self) -> None:
        """The process is let go: wait until Comet has everything."""
        self.end("interrupted")
        self._session.close()
        self.leave()
        self._cores.release()

    def _open(self, spec: TrialSpec, should_stop: Callable[[], bool]) -> None:
        if not self._cores.cores and self._cores.claim():
            self._cores.pin()
        self._run = Run(spec, self._session, Silent(), should_stop)
        self._epochs = self._run.epochs()

    def _next(self) -> Trained:
        run = self._run
        assert run is not None, "it was opened"
        assert self._epochs is not None, "with the run"
        result = next(self._epochs, None)
        if run.paused:
            state: Literal["running", "finished", "paused"] = "paused"
        else:
            finished = result is None or run.trainer.epoch >= run.experiment.train.epochs
            state = "finished" if finished else "running"
        if state != "running":
            self._finish("completed" if state == "finished" else "paused")
        # Without a result the process that trained the last epoch was lost before it could end the run.
        row = result.metrics if result is not None else read_metrics(run.store, run.spec.prefix)[-1]
        return Trained(dict(row), state)

    def _finish(self, status: RunStatus, error: str | None = None, out_of_memory: bool = False) -> None:
        run, self._run, self._epochs = self._run, None, None
        if run is not None:
            run.finish(status, error, out_of_memory=out_of_memory)


def _failure(error: BaseException) -> Failure:
    known = isinstance(error, TuneyardError)
    text = f"{type(error).__name__}: {error}"
    return Failure(
        kind=type(error).__name__,
        text=text if known else f"{text}\n\n{''.join(traceback.format_exception(error))}",
        understood=known,
        interrupted=isinstance(error, InterruptedRunError),
        out_of_memory=ran_out_of_memory(error),
        link=process_group.is_broken_link(error),
    )

"""One run from spec to record: builds the parts, drives the loop, saves, resumes, and evaluates on the test set."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tuneyard.trainers.build import build_trainer, count_parameters, test_metrics
from tuneyard.trainers.checkpoints import Checkpoints
from tuneyard.trainers.checks import check_resumed
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import CheckpointError, InterruptedRunError, TuneyardError
from tuneyard.trainers.loop import EpochResult, Watcher
from tuneyard.trainers.memory import memory_peak, reset_peak
from tuneyard.trainers.record import DataSummary, Metric, RunRecord, RunStatus, now, read_run
from tuneyard.trainers.reporting import Reporter
from tuneyard.trainers.session import LoadedData, Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tasks import Task

log = logging.getLogger(__name__)


class Run:
    """A run that is ready to train: `epochs()` trains it, `finish()` ends its record.

    Every worker of a run makes one; the main worker alone saves, records and tracks.
    """

    def __init__(self, spec: TrialSpec, session: Session, watcher: Watcher, should_stop: Callable[[], bool]) -> None:
        session.begin_run()
        reset_peak()
        self.spec, self.session = spec, session
        self.experiment = spec.experiment
        self.data: LoadedData = session.data(self.experiment.data, Path(spec.project_dir))
        self.engine = Engine(self.experiment.train, cpu=session.cpu)
        self.trainer = build_trainer(spec, session, self.data, self.engine, watcher, should_stop)
        self.metric = run_metric(spec, self.trainer.task)
        self.store = session.store(spec)
        checkpoint = self.experiment.checkpoint
        self.checkpoints = Checkpoints(
            self.store,
            spec.prefix,
            keep_last=checkpoint.keep_last,
            keep_best=checkpoint.keep_best,
            mode=self.metric.mode,
        )
        self._saved = (-1, -1)
        history = self._resume() if spec.resume else []
        self._began = time.monotonic()
        self._last: EpochResult | None = None
        self._reporter = (
            Reporter(self._first_record(), self.store, spec, session, history) if self.engine.is_main else None
        )

    @property
    def record(self) -> RunRecord:
        """The record as it stands (of the main worker)."""
        assert self._reporter is not None, "only the main worker keeps the record"
        return self._reporter.record

    def epochs(self) -> Iterator[EpochResult]:
        """Train, and yield each epoch after its checkpoint was asked for and its metrics were sent.

        Raises InterruptedRunError after a stop (everything is saved by then), DivergedError for a bad loss.
        """
        try:
            for result in self.trainer.epochs():
                self._last = result
                improved = self._reporter.epoch_ended(result, self._spent_s()) if self._reporter else False
                due = self.trainer.epoch % self.experiment.checkpoint.every_epochs == 0
                last = self.trainer.epoch == self.experiment.train.epochs
                if self.engine.broadcast(improved or due or last):
                    self.save(result.metrics.get(self.metric.name))
                if self._reporter and result.first_images is not None:
                    self._reporter.show_inputs(result.first_images, self.trainer.step)
                yield result
        except InterruptedRunError:
            self.save(None)
            raise

    def save(self, metric: float | None = None) -> None:
        """Ask for a checkpoint of this very moment; returns once the state is copied. All workers must call it."""
        # Both numbers: a stop after an epoch's last step comes before its validation, and before its metric is known.
        place = (self.trainer.step, self.trainer.epoch)
        if place == self._saved:
            return
        state = self.trainer.state()
        self._saved = place
        if self._reporter:
            # With the weights, and not read back from metrics.jsonl: that may lag behind when a run is killed.
            state["history"] = list(self._reporter.rows)
            self.checkpoints.save(state, step=self.trainer.step, epoch=self.trainer.epoch, metric=metric)

    def finish(self, status: RunStatus, error: str | None = None) -> None:
        """Wait for what is still being saved, evaluate on the test set where that is due, and end the record.

        Raises what went wrong with that, and the record says failed, unless the run had failed before.
        """
        test: dict[str, float] | None = None
        try:
            if self.engine.is_main:
                self.checkpoints.close()
            if status == "completed" and self.spec.evaluate_test:
                test = self._evaluate_test()
        except TuneyardError as fault:
            if status != "failed":
                status, error = "failed", f"{type(fault).__name__}: {fault}"
                raise
        finally:
            self._end_record(status, error, test)

    def _end_record(self, status: RunStatus, error: str | None, test: dict[str, float] | None) -> None:
        try:
            if self._reporter:
                if self._last is not None:
                    self._reporter.show_validation(self._last, self.data, self.trainer.step)
                self._reporter.finish(status, error, test, memory_peak(self.session.imports_bytes), self._spent_s())
        finally:
            self.trainer.train.close()
            self.engine.close()

    def _resume(self) -> list[dict[str, float]]:
        """Go on from the newest checkpoint; returns the metrics of the epochs before it."""
        found = self.checkpoints.load()
        if found is None:
            return []
        info, state = found
        before = read_run(self.store, self.spec.prefix)
        check_resumed(self.experiment, before.experiment)
        if before.data and before.data.fingerprint != self.data.fingerprint:
            raise CheckpointError(
                f"{self.experiment.data.source} has changed since this run began, and its samples would be mixed up. "
                "Restore the data, or leave --resume out to start a new run."
            )
        try:
            self.trainer.restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{info.uri} does not fit this experiment ({error}). Was model or optimizer changed since? "
                "Start a new run, or resume with the experiment as it was."
            ) from error
        log.info("resumed %s from step %d (epoch %d)", self.spec.run_id, info.step, info.epoch)
        self._saved = (info.step, info.epoch)
        history: list[dict[str, float]] = state["history"]
        return history

    def _first_record(self) -> RunRecord:
        data = self.data
        return RunRecord(
            run_id=self.spec.run_id, name=self.experiment.name, sweep_id=self.spec.sweep_id, metric=self.metric,
            experiment=self.experiment.model_dump(mode="json"), overrides=self.spec.overrides,
            parameters=count_parameters(self.trainer),
            git_commit=self.spec.provenance.commit, git_dirty=self.spec.provenance.dirty, started=now(),
            environment=self.session.environment(), data=DataSummary(
                fingerprint=data.fingerprint, classes=list(data.classes), train=len(data.split.train),
                validation=len(data.split.validation), test=len(data.test.labels) if data.test else 0,
                skipped=list(data.skipped),
            ),
        )  # fmt: skip

    def _spent_s(self) -> float:
        return time.monotonic() - self._began

    def _evaluate_test(self) -> dict[str, float] | None:
        """The one use of the test set: after training, with the best checkpoint."""
        if self.data.test is None:
            return None
        best = self.checkpoints.best()
        step = self.engine.broadcast(best.step if best else None)
        return None if step is None else test_metrics(self.trainer, self.data, self.checkpoints, step)


def run_metric(spec: TrialSpec, task: Task) -> Metric:
    """What this run's best epoch is chosen by: the sweep's metric, or the task's own."""
    tune = spec.experiment.tune
    return Metric(name=tune.metric, mode=tune.mode) if tune else task.primary


def train(spec: TrialSpec, session: Session, watcher: Watcher, should_stop: Callable[[], bool]) -> RunRecord | None:
    """Train one run to its end. The record on the main worker, None on the others.

    Whatever ends the run early is written into its record, and raised.
    """
    run = Run(spec, session, watcher, should_stop)
    try:
        for _ in run.epochs():
            pass
    except InterruptedRunError as error:
        run.finish("interrupted", str(error))
        raise
    except BaseException as error:
        run.finish("failed", f"{type(error).__name__}: {error}")
        raise
    run.finish("completed")
    return run.record if run.engine.is_main else None

"""One run from spec to record: builds the parts, drives the loop, saves, resumes, and evaluates on the test set."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tuneyard.trainers.build import build_trainer, count_parameters, test_metrics
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker, claim_run
from tuneyard.trainers.checkpoints.manifest import RunFacts
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import DataError, InterruptedRunError, TuneyardError
from tuneyard.trainers.loop import EpochResult, Watcher
from tuneyard.trainers.memory import memory_peak, ran_out_of_memory, reset_peak
from tuneyard.trainers.memory_limit import MemoryLimit
from tuneyard.trainers.record import DataSummary, Metric, RunRecord, RunStatus, now
from tuneyard.trainers.reporting import Reporter
from tuneyard.trainers.resuming import go_on
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
        limit_gb = self.experiment.resources.memory_per_worker_gb
        watcher = watcher if limit_gb is None else MemoryLimit(watcher, limit_gb)
        self.data: LoadedData = session.data(self.experiment.data, Path(spec.project_dir))
        self.engine = Engine(self.experiment.train, cpu=session.cpu, project_dir=Path(spec.project_dir))
        check_same_data(self.engine.gather(self.data.fingerprint))
        self.trainer = build_trainer(spec, session, self.data, self.engine, watcher, should_stop)
        self.metric = run_metric(spec, self.trainer.task)
        self.store = session.store(spec)
        # As late as can be: from here on a process that trained this run before is replaced.
        alone = spec.sweep_id is None
        self.fence = claim_run(self.store, spec.prefix, spec.run_id, alone=alone) if self.engine.is_main else None
        checkpoint = self.experiment.checkpoint
        self.checkpoints = Checkpoints(
            self.store,
            spec.prefix,
            spec.blob_prefix,
            keep_last=checkpoint.keep_last,
            keep_best=checkpoint.keep_best,
            keep_hours=checkpoint.keep_hours,
            mode=self.metric.mode,
            facts=RunFacts(
                self.engine.world_size, spec.provenance.commit, spec.provenance.dirty, self.data.fingerprint
            ),
            fence=self.fence or Onlooker(self.store, spec.prefix),
            staging_bytes=checkpoint.staging_bytes,
        )
        self.trainer.before_change = self.checkpoints.settle
        self._origin = go_on(spec, self.trainer, self.checkpoints, self.store, self.data)
        if self.fence:
            self.fence.begin(self._origin.base)
            session.attempts[spec.prefix] = self.fence.attempt
        self._saved = self._origin.place
        self._began = time.monotonic()
        self._last: EpochResult | None = None
        self._reporter = self._open_record() if self.engine.is_main else None

    @property
    def record(self) -> RunRecord:
        """The record as it stands (of the main worker)."""
        assert self._reporter is not None, "only the main worker keeps the record"
        return self._reporter.record

    @property
    def paused(self) -> bool:
        """Has it come to the epoch where it is to wait, before its last one?"""
        return self._until <= self.trainer.epoch < self.experiment.train.epochs

    @property
    def _until(self) -> int:
        epochs = self.experiment.train.epochs
        return epochs if self.spec.until_epoch is None else min(self.spec.until_epoch, epochs)

    def epochs(self) -> Iterator[EpochResult]:
        """Train, and yield each epoch after its checkpoint was asked for and its metrics were sent.

        Ends after the last epoch, or after the one at which the run is to pause. Raises InterruptedRunError after a
        stop (everything is saved by then), DivergedError for a bad loss.
        """
        if self.trainer.epoch >= self._until:
            self._save_copied()
            return
        try:
            for result in self.trainer.epochs():
                self._last = result
                improved = self._reporter.epoch_ended(result, self._spent_s()) if self._reporter else False
                due = self.trainer.epoch % self.experiment.checkpoint.every_epochs == 0
                last = self.trainer.epoch >= self._until
                if self.engine.broadcast(improved or due or last):
                    self.save(result.metrics.get(self.metric.name))
                if self._reporter and result.first_images is not None:
                    self._reporter.show_inputs(result.first_images, self.trainer.step)
                yield result
                if last:
                    return
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
            state["progress"]["cloned_from"] = self._origin.cloned_from
            self.checkpoints.save(
                state, step=self.trainer.step, epoch=self.trainer.epoch, metric=metric, steady=self.trainer.steady()
            )

    def finish(self, status: RunStatus, error: str | None = None, *, out_of_memory: bool = False) -> None:
        """Wait for what is still being saved, evaluate on the test set where that is due, and end the record.

        out_of_memory: was it this that it failed of?
        Raises what went wrong with that, and the record says failed, unless the run had failed before.
        """
        test: dict[str, float] | None = None
        try:
            if self.engine.is_main:
                self.checkpoints.close()
            if status == "completed":
                self._complete_predictions()
            if status == "completed" and self.spec.evaluate_test:
                test = self._evaluate_test()
        except TuneyardError as fault:
            if status != "failed":
                status, error = "failed", f"{type(fault).__name__}: {fault}"
                raise
        finally:
            if self._reporter and out_of_memory:
                self._reporter.record = self._reporter.record.model_copy(update={"out_of_memory": True})
            self._end_record(status, error, test)

    def _end_record(self, status: RunStatus, error: str | None, test: dict[str, float] | None) -> None:
        try:
            if self._reporter:
                if self._last is not None:
                    self._reporter.show_validation(self._last, self.data, self.trainer.step)
                self._reporter.finish(status, error, test, memory_peak(self.session.imports_bytes), self._spent_s())
            if self.fence and self.spec.sweep_id is None:
                self.fence.end()
        finally:
            self.trainer.train.close()
            self.engine.close()

    def _save_copied(self) -> None:
        """Save a run that has nothing left to train and nothing of its own: a clone of one that had gone further."""
        if self._saved == (-1, -1) and self._origin.history:
            self.save(self._origin.history[-1].get(self.metric.name))

    def _open_record(self) -> Reporter:
        # A clone's record goes on too, where the run has one: its attempts, the time it took, its Comet experiment.
        spec = self.spec if self.spec.clone_of is None else self.spec.model_copy(update={"resume": True})
        rows = list(self._origin.history)
        return Reporter(self._first_record(), self.store, spec, self.session, rows, self.fence)

    def _first_record(self) -> RunRecord:
        data = self.data
        return RunRecord(
            run_id=self.spec.run_id, name=self.experiment.name, sweep_id=self.spec.sweep_id, metric=self.metric,
            trial_id=self.spec.trial_id, part=self.spec.part, cloned_from=self._origin.cloned_from,
            attempt=self.fence.attempt if self.fence else 0,
            experiment=self.experiment.model_dump(mode="json"), overrides=self.spec.overrides,
            parameters=count_parameters(self.trainer),
            git_commit=self.spec.provenance.commit, git_dirty=self.spec.provenance.dirty, started=now(),
            environment=self.session.environment(), data=DataSummary(
                fingerprint=data.fingerprint, classes=list(data.classes), train=len(data.split.train),
                validation=len(data.split.validation), test=len(data.test.labels) if data.test else 0,
                skipped=list(data.skipped), normalization=data.normalization,
            ),
        )  # fmt: skip

    def _spent_s(self) -> float:
        return time.monotonic() - self._began

    def _complete_predictions(self) -> None:
        """Those of the best epoch may be missing, after a kill or in a clone: its checkpoint makes them again."""
        if not self.engine.broadcast(self._reporter.lacks_predictions if self._reporter else None):
            return
        best = self.checkpoints.best() if self.engine.is_main else None
        step = self.engine.broadcast(best.step if best else None)
        if step is None:
            return
        part = self.trainer.judged_part
        self.trainer.load_judged(self.checkpoints.load_parts((part,), step=step)[part])
        kept = self.trainer.evaluate(self.trainer.validation, keep=True).kept
        if self._reporter and kept is not None:
            self._reporter.keep_predictions(replace(kept, step=step))

    def _evaluate_test(self) -> dict[str, float] | None:
        """The one use of the test set: after training, with the best checkpoint."""
        if self.data.test is None:
            return None
        best = self.checkpoints.best()
        step = self.engine.broadcast(best.step if best else None)
        if self._reporter and best and self.record.best and best.step != self.record.best.step:
            log.warning(
                "The checkpoint of the best epoch, %d, was not saved: the test set is evaluated with that of epoch %d.",
                self.record.best.epoch, best.epoch,
            )  # fmt: skip
        return None if step is None else test_metrics(self.trainer, self.data, self.checkpoints, step)


def check_same_data(fingerprints: Sequence[str]) -> None:
    """Raise DataError where the workers, by rank, do not see the same data: each would train on its own."""
    different = [rank for rank, found in enumerate(fingerprints) if found != fingerprints[0]]
    if different:
        raise DataError(
            f"Worker {different[0]} sees other data than worker 0. A folder or file must be the same on every machine;"
            " data in S3 may have changed while machines brought them: start again."
        )


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
        run.finish("failed", f"{type(error).__name__}: {error}", out_of_memory=ran_out_of_memory(error))
        raise
    run.finish("paused" if run.paused else "completed")
    return run.record if run.engine.is_main else None

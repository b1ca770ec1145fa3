"""Keeps one run's record and its trackers up to date, as the run goes along."""

import numpy as np

from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.errors import FencedError, MissingKeyError, StoreError
from tuneyard.trainers.loop import EpochResult
from tuneyard.trainers.predictions import Predictions, PredictionsWriter, keeps_predictions, read_predictions
from tuneyard.trainers.record import (
    Memory,
    RunRecord,
    RunStatus,
    best_epoch,
    better_epoch,
    now,
    read_run,
    write_record,
)  # fmt: skip
from tuneyard.trainers.record_writer import RecordWriter
from tuneyard.trainers.session import LoadedData, Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store
from tuneyard.trainers.tracking.tracker import TrackedRun


class Reporter:
    """The main worker's record writer and tracker for one run."""

    def __init__(
        self, record: RunRecord, store: Store, spec: TrialSpec, session: Session, rows: list[dict[str, float]],
        fence: Fence | None = None,
    ) -> None:  # fmt: skip
        """`rows`: the metrics of the epochs that were trained before, in a run that goes on.

        `fence`: once it finds a newer attempt, nothing is written any more, and FencedError raised.
        """
        self._tracker, self._fence = session.tracker, fence
        self._images = spec.experiment.tracking.comet.images
        self.rows = rows
        self._spent_before_s = 0.0
        previous = None
        if spec.resume:
            try:
                before = read_run(store, spec.prefix)
            except MissingKeyError:
                pass
            else:
                self._spent_before_s = before.train_s
                previous = TrackedRun.model_validate(before.tracking) if before.tracking else None
                # What goes on after a pause, or after the scheduler had stopped it, has not failed.
                failed_before = before.status not in ("paused", "stopped")
                attempts = before.attempts + failed_before
                record = record.model_copy(update={"started": before.started, "attempts": attempts})
        tracked = self._tracker.begin(spec, previous)
        best = best_epoch(self.rows, record.metric)
        self.record = record.model_copy(update={"tracking": tracked.model_dump(mode="json"), "best": best})
        self._writer = RecordWriter(store, spec.prefix, fence)
        self._writer.write(self.record, self.rows)
        keeps = keeps_predictions(spec.experiment.data.validation)
        self._predictions = PredictionsWriter(store, spec.prefix, fence) if keeps else None
        self._predicted_step = _predicted_step(store, spec.prefix) if keeps and self.rows else None
        if spec.provenance.diff:
            store.put(spec.prefix + "git.diff", spec.provenance.diff.encode())

    def epoch_ended(self, result: EpochResult, spent_s: float) -> bool:
        """Record and send an epoch's metrics. Is it the best so far?"""
        row = result.metrics
        self.rows.append(row)
        self._tracker.log_metrics(
            {name: value for name, value in row.items() if name not in ("epoch", "step")},
            step=int(row["step"]), epoch=int(row["epoch"]),
        )  # fmt: skip
        best = better_epoch(row, self.record.best, self.record.metric)
        improved = best is not self.record.best
        self.record = self.record.model_copy(update={"train_s": self._spent_before_s + spent_s, "best": best})
        self._writer.write(self.record, self.rows)
        if improved and result.validation.kept is not None:
            self.keep_predictions(result.validation.kept)
        return improved

    @property
    def lacks_predictions(self) -> bool:
        """Are predictions to be kept, and not those of the best epoch? A kill between two writes leaves it so."""
        best = self.record.best
        return self._predictions is not None and best is not None and best.step != self._predicted_step

    def keep_predictions(self, predictions: Predictions) -> None:
        """Write these in the background, in place of those before."""
        if self._predictions is not None:
            self._predictions.write(predictions)
            self._predicted_step = predictions.step

    def show_inputs(self, images: np.ndarray, step: int) -> None:
        """Send a page of images as the model got them: uint8 [n, H, W, C]."""
        if self._images:
            shown = images[: self._images]
            self._tracker.log_images("augmented inputs", shown, [""] * len(shown), step=step, epoch=1)

    def show_validation(self, result: EpochResult, data: LoadedData, step: int) -> None:
        """Send the last validation's confusion matrix, and a page of the mistakes with the largest loss."""
        epoch = int(result.metrics["epoch"])
        evaluation = result.validation
        if "confusion" in evaluation.sums:
            self._tracker.log_confusion(evaluation.sums["confusion"].numpy(), data.classes, step=step, epoch=epoch)
        if not self._images:
            return
        labels = data.pool.labels[evaluation.indices]
        wrong = np.flatnonzero(evaluation.predictions != labels)
        worst = wrong[np.argsort(-evaluation.losses[wrong], kind="stable")][: self._images]
        if len(worst) == 0:
            return
        classes, names = data.classes, data.pool.names
        captions = [
            f"{classes[evaluation.predictions[i]]}, is {classes[labels[i]]}: {names[evaluation.indices[i]]}"
            for i in worst
        ]
        images = np.stack([data.pool.images[evaluation.indices[i]] for i in worst])
        self._tracker.log_images("wrong predictions", images, captions, step=step, epoch=epoch)

    def finish(
        self, status: RunStatus, error: str | None, test: dict[str, float] | None, memory: Memory, spent_s: float
    ) -> None:
        """End the record and the tracked experiment; returns once the record is in the store.

        Where the predictions cannot be written the run has failed, since it has not left what was asked for.
        """
        if test:
            last = self.rows[-1]
            self._tracker.log_metrics(test, step=int(last["step"]), epoch=int(last["epoch"]))
        fault = self._close_predictions()
        if fault is not None and status != "failed":
            status, error = "failed", f"{type(fault).__name__}: {fault}"
        self._tracker.finish(None if self._replaced() else status)
        self.record = self.record.model_copy(
            update={
                "status": status, "error": error, "test": test, "memory": memory, "ended": now(),
                "train_s": self._spent_before_s + spent_s,
                "undecided": status == "failed" and self.record.sweep_id is not None,
            }
        )  # fmt: skip
        self._writer.write(self.record, self.rows)
        self._writer.close()
        if fault is not None:
            raise fault

    def _replaced(self) -> bool:
        """Has a newer attempt begun? The tracked experiment is its as well, and the last word on it too."""
        try:
            if self._fence is not None:
                self._fence.check()
        except FencedError:
            return True
        except StoreError:
            return False  # nobody can say; the record's writer tries again
        return False

    def _close_predictions(self) -> StoreError | FencedError | None:
        try:
            if self._predictions is not None:
                self._predictions.close()
        except (StoreError, FencedError) as error:
            return error
        return None


def complete_tracking(session: Session, store: Store, prefix: str) -> None:
    """Write into the record where Comet's experiment lies, which is known for sure only once the tracker has closed.

    Not into that of a newer attempt.
    """
    tracked = session.tracker.run()
    if tracked is not None:
        record = read_run(store, prefix)
        if record.attempt > session.attempts.get(prefix, record.attempt):
            return
        write_record(store, prefix, record.model_copy(update={"tracking": tracked.model_dump(mode="json")}))


def _predicted_step(store: Store, prefix: str) -> int | None:
    """The step of the predictions that lie in the store; None without any, or where they are damaged."""
    try:
        return read_predictions(store, prefix).step
    except StoreError:
        return None

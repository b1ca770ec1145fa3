"""What the reporter keeps of the best epoch's predictions, also when a run goes on."""

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.runs import make_spec, stored_record
from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.checkpoints.fencing import claim_run
from tuneyard.trainers.errors import FencedError, StoreError
from tuneyard.trainers.loop import EpochResult, Evaluation
from tuneyard.trainers.predictions import Predictions, read_predictions
from tuneyard.trainers.record import Memory, Metric, RunRecord, now
from tuneyard.trainers.reporting import Reporter
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Bytes, Store, open_store

ACCURACY = Metric(name="val/accuracy", mode="max")
KEEPS = {"data.validation": {"split": 0.2, "predictions": True}}


def make_reporter(
    spec: TrialSpec, store: Store, rows: list[dict[str, float]] | None = None, fence: Fence | None = None
) -> Reporter:
    record = RunRecord(
        run_id=spec.run_id, name="quadrants", metric=ACCURACY, experiment=spec.experiment.model_dump(mode="json"),
        started=now(),
    )  # fmt: skip
    return Reporter(record, store, spec, Session(threads=1, cpu=True), rows or [], fence)


def epoch(number: int, accuracy: float, *, kept: bool = True) -> EpochResult:
    """The result of an epoch of ten steps, whose predictions tell it from others by their step."""
    predictions = Predictions(np.array([1]), np.array([[0.5, 0.5]], np.float32), np.array([0]), step=10 * number)
    row = {"epoch": number, "step": 10 * number, "val/accuracy": accuracy}
    none = np.zeros(0, np.int64)
    evaluation = Evaluation({"val/accuracy": accuracy}, {}, none, none, none, predictions if kept else None)
    return EpochResult(row, evaluation)


def end(reporter: Reporter, status: str = "completed") -> None:
    reporter.finish(status, None, None, Memory(peak_bytes=1, imports_bytes=1), 1.0)  # type: ignore[arg-type]


def rows_of(*results: EpochResult) -> list[dict[str, float]]:
    return [result.metrics for result in results]


def test_the_predictions_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    spec, store = make_spec(tmp_path, KEEPS), open_store(str(tmp_path / "runs"))
    reporter = make_reporter(spec, store)
    for result in (epoch(1, 0.5), epoch(2, 0.9), epoch(3, 0.7)):
        reporter.epoch_ended(result, 1.0)
        assert not reporter.lacks_predictions
    end(reporter)
    assert read_predictions(store, spec.prefix).step == 20


def test_without_the_wish_none_are_kept(tmp_path: Path) -> None:
    spec, store = make_spec(tmp_path), open_store(str(tmp_path / "runs"))
    reporter = make_reporter(spec, store)
    reporter.epoch_ended(epoch(1, 0.5, kept=False), 1.0)
    assert not reporter.lacks_predictions
    end(reporter)
    assert not store.exists(f"{spec.prefix}predictions.npz")


def test_a_run_that_goes_on_keeps_those_of_its_best_epoch_before(tmp_path: Path) -> None:
    spec, store = make_spec(tmp_path, KEEPS), open_store(str(tmp_path / "runs"))
    reporter = make_reporter(spec, store)
    for result in (epoch(1, 0.9), epoch(2, 0.7)):
        reporter.epoch_ended(result, 1.0)
    end(reporter, "paused")
    again = make_reporter(spec.model_copy(update={"resume": True}), store, rows_of(epoch(1, 0.9), epoch(2, 0.7)))
    assert not again.lacks_predictions
    again.epoch_ended(epoch(3, 0.8), 1.0)
    end(again)
    assert read_predictions(store, spec.prefix).step == 10


def test_predictions_of_another_epoch_than_the_best_are_noticed(tmp_path: Path) -> None:
    spec, store = make_spec(tmp_path, KEEPS), open_store(str(tmp_path / "runs"))
    reporter = make_reporter(spec, store)
    reporter.epoch_ended(epoch(1, 0.5), 1.0)
    end(reporter, "interrupted")
    # The kill came after the second epoch's checkpoint, and before its predictions.
    again = make_reporter(spec.model_copy(update={"resume": True}), store, rows_of(epoch(1, 0.5), epoch(2, 0.9)))
    lacked = again.lacks_predictions
    assert lacked
    kept = epoch(2, 0.9).validation.kept
    assert kept is not None
    again.keep_predictions(replace(kept, labels=np.array([1])))
    assert not again.lacks_predictions
    end(again)
    assert read_predictions(store, spec.prefix).step == 20


def test_the_training_does_not_wait_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, store = make_spec(tmp_path, KEEPS), open_store(str(tmp_path / "runs"))
    opened, put = threading.Event(), type(store).put

    def slow(self: Store, key: str, data: Bytes) -> None:
        opened.wait(20)
        put(self, key, data)

    monkeypatch.setattr(type(store), "put", slow)
    reporter = make_reporter(spec, store)
    for number in range(1, 6):
        reporter.epoch_ended(epoch(number, number / 10), 1.0)
    assert not list(tmp_path.glob("runs/**/predictions.npz")), "nothing is written yet, and nobody has waited"
    opened.set()
    end(reporter)
    assert read_predictions(store, spec.prefix).step == 50


def test_a_run_whose_predictions_cannot_be_written_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, store = make_spec(tmp_path, KEEPS), open_store(str(tmp_path / "runs"))

    def refuse(store: Store, prefix: str, predictions: Predictions) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("tuneyard.trainers.predictions.write_predictions", refuse)
    reporter = make_reporter(spec, store)
    reporter.epoch_ended(epoch(1, 0.5), 1.0)
    with pytest.raises(StoreError, match="the disk is full"):
        end(reporter)
    record = stored_record(spec)
    assert (record.status, record.error) == ("failed", "StoreError: the disk is full")


@pytest.mark.parametrize(("replaced", "told"), [(False, ["completed"]), (True, [None])])
def test_a_replaced_process_leaves_the_last_word_on_the_tracked_run_to_its_replacement(
    replaced: bool, told: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = make_spec(tmp_path), open_store(str(tmp_path / "runs"))
    fence = claim_run(store, spec.prefix, spec.run_id, alone=False)
    fence.begin(None)
    reporter = make_reporter(spec, store, fence=fence)
    said: list[str | None] = []
    monkeypatch.setattr(reporter._tracker, "finish", said.append)
    if replaced:
        claim_run(store, spec.prefix, spec.run_id, alone=False)
    with suppress(FencedError):
        end(reporter)
    assert said == told

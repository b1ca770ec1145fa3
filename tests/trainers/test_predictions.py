"""Per-sample predictions: what is kept, of which epoch, and how they are written and read."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.runs import Changes, make_spec, train_run
from tuneyard.trainers.build import build_trainer
from tuneyard.trainers.config.data import ValidationConfig
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import InterruptedRunError, MissingKeyError, StoreError
from tuneyard.trainers.loop import Trainer
from tuneyard.trainers.predictions import (
    Predictions,
    PredictionsWriter,
    join_shares,
    keeps_predictions,
    read_predictions,
    to_npz,
    write_predictions,
)
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.session import Session
from tuneyard.trainers.stores.store import Bytes, Store, open_store

SOME = Predictions(
    indices=np.array([2, 5, 7]),
    probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32),
    labels=np.array([0, 1, 1]),
    step=30,
)
ARRAYS = {
    "indices": SOME.indices, "probabilities": SOME.probabilities, "labels": SOME.labels, "step": np.array(1)
}  # fmt: skip


def make_trainer(folder: Path) -> Trainer:
    spec = make_spec(folder)
    session = Session(threads=1, cpu=True)
    data = session.data(spec.experiment.data, folder)
    return build_trainer(spec, session, data, Engine(spec.experiment.train, cpu=True), Silent(), lambda: False)


def same(one: Predictions, other: Predictions) -> bool:
    arrays = ("indices", "probabilities", "labels")
    return one.step == other.step and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


def test_an_evaluation_keeps_the_softmax_of_every_sample_where_asked(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    kept = trainer.evaluate(trainer.validation, keep=True).kept
    assert kept is not None
    assert kept.probabilities.shape == (24, 4)
    assert kept.probabilities.dtype == np.float32
    assert np.allclose(kept.probabilities.sum(axis=1), 1.0, atol=1e-6)
    evaluation = trainer.evaluate(trainer.validation)
    assert evaluation.kept is None
    assert kept.indices.tolist() == evaluation.indices.tolist()
    assert kept.probabilities.argmax(axis=1).tolist() == evaluation.predictions.tolist()
    assert kept.accuracy == pytest.approx(evaluation.metrics["val/accuracy"])


def test_a_trainer_keeps_probabilities_only_where_it_was_told_to(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    epochs = trainer.epochs()
    assert next(epochs).validation.kept is None
    trainer.keep_probabilities = True
    kept = next(epochs).validation.kept
    assert kept is not None
    assert kept.step == trainer.step == 16


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (ValidationConfig(), False),
        (ValidationConfig(predictions=True), True),
        (ValidationConfig(folds=5), True),
        (ValidationConfig(folds=5, fold=2), True),
    ],
)
def test_predictions_are_kept_where_asked_and_of_every_fold(config: ValidationConfig, kept: bool) -> None:
    assert keeps_predictions(config) is kept


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_predictions(store, "a/", SOME)
    found = read_predictions(store, "a/")
    assert same(found, SOME)
    assert (found.indices.dtype, found.probabilities.dtype) == (np.dtype(np.int64), np.dtype(np.float32))
    assert found.accuracy == pytest.approx(2 / 3)


def test_the_shares_of_workers_are_put_in_the_pools_order() -> None:
    shares = [replace(SOME, indices=SOME.indices * 2, labels=np.array([4, 5, 6])), SOME]
    joined = join_shares(shares)
    assert joined.indices.tolist() == [2, 4, 5, 7, 10, 14]
    assert joined.labels.tolist() == [0, 4, 1, 1, 5, 6]
    assert joined.probabilities[:, 0].tolist() == pytest.approx([0.9, 0.9, 0.2, 0.6, 0.2, 0.6])


def test_none_kept_is_told_with_the_key_that_keeps_them(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match=r"Set data\.validation\.predictions: true before training"):
        read_predictions(open_store(str(tmp_path)), "a/")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK no zip", "Delete it, and resume or repeat its run"),
        (to_npz(indices=SOME.indices), "probabilities is not a file in the archive"),
        (to_npz(**(ARRAYS | {"probabilities": SOME.probabilities[:2]})), r"3 indices, probabilities of shape \[2, 2\]"),
        (to_npz(**(ARRAYS | {"indices": np.array([{}])})), "Object arrays cannot be loaded"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    store = open_store(str(tmp_path))
    store.put("a/predictions.npz", content)
    with pytest.raises(StoreError, match=rf"a/predictions\.npz is damaged: .*{message}"):
        read_predictions(store, "a/")


class Gate:
    """A store whose writes wait for the gate, and fail as often as asked."""

    def __init__(self, inner: Store, failures: int = 0) -> None:
        self.inner, self.failures, self.puts = inner, failures, 0
        self.opened = threading.Event()
        self.uri, self.get, self.exists = inner.uri, inner.get, inner.exists
        self.keys, self.delete, self.check, self.create = inner.keys, inner.delete, inner.check, inner.create
        self.read_into, self.size = inner.read_into, inner.size

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        self.opened.wait(20)
        self.puts += 1
        if self.puts <= self.failures:
            raise StoreError("the store is away")
        self.inner.put(key, data, sha256=sha256)


def test_the_newest_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    gate = Gate(open_store(str(tmp_path)))
    writer = PredictionsWriter(gate, "a/")
    for step in range(1, 6):
        writer.write(replace(SOME, step=step))
    gate.opened.set()
    writer.close()
    assert read_predictions(gate, "a/").step == 5
    assert gate.puts <= 2


def test_a_failed_write_is_tried_again_at_the_end(tmp_path: Path) -> None:
    gate = Gate(open_store(str(tmp_path)), failures=1)
    gate.opened.set()
    writer = PredictionsWriter(gate, "a/")
    writer.write(SOME)
    writer.close()
    assert same(read_predictions(gate, "a/"), SOME)


def test_a_write_that_fails_for_good_is_raised(tmp_path: Path) -> None:
    gate = Gate(open_store(str(tmp_path)), failures=9)
    gate.opened.set()
    writer = PredictionsWriter(gate, "a/")
    writer.write(SOME)
    with pytest.raises(StoreError, match="the store is away"):
        writer.close()


def test_predictions_that_a_kill_has_lost_are_made_again_from_the_best_checkpoint(tmp_path: Path) -> None:
    changes: Changes = {
        "data.validation.predictions": True,
        # Accuracy only grows here: the worst epoch, wanted as the best, is the first.
        "tune": {"metric": "val/accuracy", "mode": "min", "space": {"optimizer.lr": {"uniform": [0.001, 0.1]}}},
    }
    spec = make_spec(tmp_path, changes)
    with pytest.raises(InterruptedRunError):
        train_run(spec, stop_after=20)
    before = read_predictions(open_store(spec.store_uri), spec.prefix)
    open_store(spec.store_uri).delete(f"{spec.prefix}predictions.npz")
    record = train_run(spec.model_copy(update={"resume": True}))
    assert record.best is not None
    assert record.best.step == 8
    assert same(read_predictions(open_store(spec.store_uri), spec.prefix), before)

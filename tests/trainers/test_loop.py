"""What an epoch does to the weights, what it reports, and when it refuses to go on."""

from pathlib import Path

import pytest
import torch

from tests.trainers.runs import (
    STEPS_PER_EPOCH,
    Changes,
    checkpoints_of,
    make_spec,
    stored_record,
    stored_rows,
    stored_weights,
    train_run,
)
from tuneyard.trainers import build as build_module
from tuneyard.trainers import run as run_module
from tuneyard.trainers.build import build_trainer
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import DivergedError
from tuneyard.trainers.evaluation import evaluate_on_test
from tuneyard.trainers.loop import Trainer
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunRecord
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tracking.tracker import TrackedRun

TEST_METRICS = {"test/loss", "test/accuracy", "test/macro_f1", "test/top2"}


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialSpec, RunRecord]:
    """A run of six epochs, to its end."""
    spec = make_spec(tmp_path_factory.mktemp("completed"), {"train.epochs": 6})
    return spec, train_run(spec)


def weights_after(folder: Path, changes: Changes) -> dict[str, torch.Tensor]:
    spec = make_spec(folder, {"train.epochs": 1, **changes})
    train_run(spec)
    return stored_weights(spec)


def make_trainer(folder: Path, changes: Changes | None = None) -> Trainer:
    spec = make_spec(folder, changes)
    session = Session(threads=1, cpu=True)
    data = session.data(spec.experiment.data, folder)
    engine = Engine(spec.experiment.train, cpu=True)
    return build_trainer(spec, session, data, engine, Silent(), lambda: False)


def test_training_learns(completed: tuple[TrialSpec, RunRecord]) -> None:
    rows = stored_rows(completed[0])
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]
    assert rows[-1]["val/loss"] < 0.7 * rows[0]["val/loss"]
    assert rows[-1]["val/accuracy"] > 0.8


def test_every_epoch_has_one_row_with_all_that_is_reported(completed: tuple[TrialSpec, RunRecord]) -> None:
    rows = stored_rows(completed[0])
    assert [(row["epoch"], row["step"]) for row in rows] == [(n, n * STEPS_PER_EPOCH) for n in range(1, 7)]
    metrics = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1", "val/top2"}
    assert all(row.keys() == metrics | {"epoch", "step", "lr"} for row in rows)


def test_the_record_tells_the_speed_and_the_time(completed: tuple[TrialSpec, RunRecord]) -> None:
    from tuneyard.trainers.record import read_metrics
    from tuneyard.trainers.stores.store import open_store

    spec, record = completed
    rows = read_metrics(open_store(spec.store_uri), spec.prefix)
    assert all(row["images_per_s"] == pytest.approx(96 / row["epoch_s"]) for row in rows)
    assert record.train_s >= sum(row["epoch_s"] for row in rows)


def test_the_learning_rate_in_the_rows_follows_the_schedule(completed: tuple[TrialSpec, RunRecord]) -> None:
    rates = [row["lr"] for row in stored_rows(completed[0])]
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(0.005)  # half way down a cosine from 0.01
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_the_test_set_is_evaluated_once_with_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    real = build_module.test_metrics

    def spy(trainer: Trainer, data: object, checkpoints: object, step: int) -> dict[str, float]:
        steps.append(step)
        return real(trainer, data, checkpoints, step)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "test_metrics", spy)
    # By this odd metric the first epoch is the best, and its checkpoint differs from the last.
    odd = {"metric": "val/loss", "mode": "max", "space": {"optimizer.lr": {"choice": [0.01]}}}
    record = train_run(make_spec(tmp_path, {"tune": odd}))
    assert record.best is not None
    assert (record.best.epoch, steps) == (1, [STEPS_PER_EPOCH])
    assert record.test is not None
    assert record.test.keys() == TEST_METRICS


def test_of_equally_good_epochs_the_record_and_the_checkpoints_mean_the_same(tmp_path: Path) -> None:
    # With no step to speak of, every epoch is as good as the one before.
    spec = make_spec(tmp_path, {"optimizer.lr": 1e-12, "checkpoint": {"every_epochs": 2, "keep_last": 1}})
    record, best = train_run(spec), checkpoints_of(spec).best()
    assert record.best is not None
    assert best is not None
    assert (record.best.step, record.best.epoch) == (best.step, best.epoch)


def test_a_trial_never_touches_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "test_metrics", lambda *_: pytest.fail("the test set was used"))
    assert train_run(make_spec(tmp_path, evaluate_test=False)).test is None


def test_the_winner_of_a_sweep_is_evaluated_afterwards(completed: tuple[TrialSpec, RunRecord], tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train.epochs": 6}, evaluate_test=False)
    train_run(spec)
    metrics = evaluate_on_test(spec, Session(threads=1, cpu=True))
    assert metrics == completed[1].test == stored_record(spec).test
    assert stored_record(spec).status == "completed"


def test_accumulated_micro_batches_make_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    whole = weights_after(tmp_path / "whole", {})
    summed = weights_after(tmp_path / "summed", {"train.accumulate": 4})
    uneven = weights_after(tmp_path / "uneven", {"train.accumulate": 5})  # 12 = 3 + 3 + 3 + 3, or 3 + 3 + 3 + 2 + 1
    for name, weight in whole.items():
        torch.testing.assert_close(summed[name], weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(uneven[name], weight, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    plain = {"optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}, "schedule.name": "constant"}
    lengths = []
    for norm in (None, 1e-3):
        trainer = make_trainer(tmp_path, {**plain, "train.clip_norm": norm})
        before = torch.cat([p.detach().clone().flatten() for p in trainer.model.parameters()])
        trainer._train_step(next(trainer.train.epoch(0)))
        after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        lengths.append(float((after - before).norm()))
        trainer.engine.close()
    assert lengths[0] > 0.05
    assert lengths[1] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_on_a_cpu(precision: str, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train.precision": precision, "train.clip_norm": 1.0, "train.accumulate": 2})
    train_run(spec)
    rows = stored_rows(spec)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert {weight.dtype for weight in stored_weights(spec).values()} == {torch.float32}


def test_a_nan_stops_the_run_with_its_place_and_never_becomes_the_best(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"model": {"name": "task.py:Poisoned", "args": {"after": STEPS_PER_EPOCH + 2}}})
    with pytest.raises(DivergedError, match=r"NaN or infinite at step 10 \(epoch 2\)"):
        train_run(spec)
    record = stored_record(spec)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith("DivergedError")
    assert record.best is not None
    assert record.best.epoch == 1
    assert [row["epoch"] for row in stored_rows(spec)] == [1]
    assert [info.step for info in checkpoints_of(spec).infos()] == [STEPS_PER_EPOCH]


def test_an_infinite_validation_loss_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneyard.trainers.classification import Classification

    def infinite(self: Classification, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.full(labels.shape, float("inf"))

    monkeypatch.setattr(Classification, "losses", infinite)
    spec = make_spec(tmp_path)
    with pytest.raises(DivergedError, match=r"val/loss became NaN or infinite in the validation of epoch 1 \(step 8\)"):
        train_run(spec)
    assert stored_record(spec).best is None


def test_evaluation_counts_every_sample_once_and_changes_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"model.args": {"dropout": 0.5}})
    before = torch.get_rng_state()
    first, second = trainer.evaluate(trainer.validation), trainer.evaluate(trainer.validation)
    trainer.engine.close()
    assert first.metrics == second.metrics
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(first.indices.tolist())) == len(first.indices) == 24
    assert int(first.sums["confusion"].sum()) == 24


def test_a_failing_store_is_told_and_the_record_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneyard.trainers.errors import StoreError
    from tuneyard.trainers.stores.file_store import FileStore

    put = FileStore.put

    def refuse(self: FileStore, key: str, data: bytes, *, sha256: bytes | None = None) -> None:
        if "blobs/" in key:
            raise StoreError("the disk is full")
        put(self, key, data, sha256=sha256)

    monkeypatch.setattr(FileStore, "put", refuse)
    spec = make_spec(tmp_path)
    with pytest.raises(StoreError, match="the disk is full"):
        train_run(spec)
    record = stored_record(spec)
    assert record.status == "failed"
    assert record.error == "StoreError: the disk is full"


def test_nothing_is_tracked_where_tracking_is_off(completed: tuple[TrialSpec, RunRecord]) -> None:
    assert TrackedRun.model_validate(completed[1].tracking) == TrackedRun()


def test_the_record_describes_the_run(completed: tuple[TrialSpec, RunRecord]) -> None:
    spec, record = completed
    assert stored_record(spec) == record
    assert (record.status, record.error, record.attempts) == ("completed", None, 1)
    assert record.experiment == spec.experiment.model_dump(mode="json")
    assert record.parameters == sum(weight.numel() for weight in stored_weights(spec).values())
    assert record.data is not None
    assert (record.data.train, record.data.validation, record.data.test) == (96, 24, 40)
    assert record.memory is not None
    assert record.memory.peak_bytes > record.memory.imports_bytes > 0

"""`tuneyard train` with every fold in turn: what it trains, what it prints, and how it goes on."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launch.test_train_command import call, write_experiment
from tuneyard.launch import train_command as module
from tuneyard.launch.train_command import train_command
from tuneyard.trainers.errors import CheckpointError, ConfigError, InterruptedRunError
from tuneyard.trainers.record import RunRecord, read_run
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store, open_store

FOLDS = {"data.validation": {"folds": 3}, "train.epochs": 2, "resources.cpus_per_worker": 1}


def store_of(folder: Path) -> Store:
    return open_store(str(folder / "runs"))


def run_ids(folder: Path) -> list[str]:
    return [path.parent.name for path in sorted(folder.glob("runs/quadrants/*/run.json"))]


def records(folder: Path) -> list[RunRecord]:
    return [read_run(store_of(folder), f"quadrants/{run_id}/") for run_id in run_ids(folder)]


def stop_at_fold(monkeypatch: pytest.MonkeyPatch, fold: int) -> list[int]:
    """Let the training of this fold be interrupted before it begins; returns the folds that were begun."""
    begun: list[int] = []
    train = module._train

    def interrupted(spec: TrialSpec, prepared: Any) -> None:
        begun.append(spec.part["fold"])
        if spec.part["fold"] == fold:
            raise InterruptedRunError("stopped in epoch 1, after step 3")
        train(spec, prepared)

    monkeypatch.setattr(module, "_train", interrupted)
    return begun


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cross-validation to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        page = io.StringIO()
        patch.setattr("sys.stdout", page)
        train_command(write_experiment(folder, FOLDS), [], resume=False, run_id=None)
    return folder, page.getvalue()


def test_every_fold_is_a_run_of_one_trial(trained: tuple[Path, str]) -> None:
    found = records(trained[0])
    base = found[0].run_id.removesuffix("-fold0")
    assert [record.run_id for record in found] == [f"{base}-fold{fold}" for fold in range(3)]
    assert [record.experiment["data"]["validation"]["fold"] for record in found] == [0, 1, 2]
    assert [(record.trial_id, record.part) for record in found] == [(base, {"fold": fold}) for fold in range(3)]
    assert {record.status for record in found} == {"completed"}


def test_the_mean_the_spread_and_the_out_of_fold_accuracy_are_printed(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    bests = [record.best.value for record in records(folder) if record.best]
    mean = f"val/accuracy {np.mean(bests):.4f} ± {np.std(bests, ddof=1):.4f} over 3 folds"
    assert mean in printed
    tests = [record.test["test/accuracy"] for record in records(folder) if record.test]
    assert f"test/accuracy {np.mean(tests):.4f} ± {np.std(tests, ddof=1):.4f} over 3 folds" in printed
    assert re.search(r"out-of-fold accuracy 0\.\d{4} over 120 of 120 samples", printed)


def test_every_sample_has_one_out_of_fold_prediction(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    where = re.search(r"out-of-fold predictions: file://(.*)", printed)
    assert where is not None
    arrays = np.load(where[1])
    assert arrays["indices"].tolist() == list(range(120))
    assert np.bincount(arrays["fold"]).tolist() == [40, 40, 40]
    accuracy = float(np.mean(arrays["probabilities"].argmax(axis=1) == arrays["labels"]))
    bests = [record.best.value for record in records(folder) if record.best]
    assert accuracy == pytest.approx(np.mean(bests)), "folds of one size: the kept epoch is the best one"


def test_a_finished_cross_validation_is_not_resumed(trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained[0]
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="is complete: there is nothing to resume"):
        train_command(folder / "experiment.yaml", [], resume=True, run_id=None)


def test_a_resume_trains_only_the_unfinished_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path, FOLDS)
    with monkeypatch.context() as patch:
        stop_at_fold(patch, 1)
        with pytest.raises(InterruptedRunError, match=r"it is saved. Go on with: tuneyard train .* --run \S+ --resume"):
            train_command(path, [], resume=False, run_id=None)
    (first,) = records(tmp_path)
    assert first.test is None, "no fold sees the test set before all are trained"
    begun = stop_at_fold(monkeypatch, 9)
    train_command(path, [], resume=True, run_id=first.run_id)
    assert begun == [1, 2]
    assert records(tmp_path)[0].attempts == 1
    assert all(record.test for record in records(tmp_path))


def test_a_resume_with_another_experiment_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path, FOLDS)
    begun = stop_at_fold(monkeypatch, 1)
    with pytest.raises(InterruptedRunError):
        train_command(path, [], resume=False, run_id=None)
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: was 0\.01, is 0\.5"):
        train_command(path, ["optimizer.lr=0.5"], resume=True, run_id=None)
    assert begun == [0, 1]


def test_one_fold_alone_is_a_plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_command(write_experiment(tmp_path, FOLDS), ["data.validation.fold=2"], resume=False, run_id=None)
    (record,) = records(tmp_path)
    assert (record.part, record.trial_id, record.experiment["data"]["validation"]["fold"]) == ({}, None, 2)
    assert record.test
    assert list(tmp_path.glob("runs/quadrants/*/predictions.npz")), "a fold's predictions are kept"


def test_a_cross_validation_that_is_not_there_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path, FOLDS)
    with pytest.raises(ConfigError, match="There is no cross-validation of quadrants"):
        train_command(path, [], resume=True, run_id=None)
    store_of(tmp_path).put("quadrants/20260101-000000-aaaa-fold0/run.json", b"{}")
    with pytest.raises(ConfigError, match=r"'20260101-000000-aaab' is not known\. Did you mean"):
        train_command(path, [], resume=True, run_id="20260101-000000-aaab")


def test_two_workers_keep_the_predictions_of_all_samples(tmp_path: Path) -> None:
    write_experiment(tmp_path, FOLDS)
    code, _, err = call(tmp_path, "train", "experiment.yaml", "resources.workers=2", "data.validation.fold=0")
    assert (code, err) == (0, "")
    (path,) = tmp_path.glob("runs/quadrants/*/predictions.npz")
    arrays = np.load(path)
    (record,) = records(tmp_path)
    assert record.best is not None
    assert len(arrays["indices"]) == 40
    accuracy = float(np.mean(arrays["probabilities"].argmax(axis=1) == arrays["labels"]))
    assert accuracy == pytest.approx(record.best.value)

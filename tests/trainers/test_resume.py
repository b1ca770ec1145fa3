"""A run that was stopped anywhere and went on ends as one that never stopped: bit for bit on a CPU."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainers.runs import (
    STEPS_PER_EPOCH,
    Changes,
    checkpoints_of,
    make_spec,
    same_bits,
    stored_record,
    stored_rows,
    stored_weights,
    train_run,
)
from tuneyard.trainers.checkpoints import copying
from tuneyard.trainers.errors import CheckpointError, InterruptedRunError
from tuneyard.trainers.spec import TrialSpec

NOISY: Changes = {
    "model.args": {"dropout": 0.3},
    "data.augment": [{"HorizontalFlip": {"p": 0.5}}, {"GaussNoise": {"p": 0.5}}],
    "schedule.warmup_epochs": 1,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrialSpec:
    """A run that was never stopped."""
    spec = make_spec(tmp_path_factory.mktemp("whole"), NOISY)
    train_run(spec)
    return spec


def train_with_stops(folder: Path, changes: Changes, *stops: int, threads: int = 1) -> TrialSpec:
    """Train, stopping after so many steps of each attempt, until the run is complete."""
    spec = make_spec(folder, changes)
    for steps in stops:
        with pytest.raises(InterruptedRunError):
            train_run(spec, stop_after=steps, threads=threads)
        spec = spec.model_copy(update={"resume": True})
    train_run(spec, threads=threads)
    return spec


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((3,), id="in the first epoch"),
        pytest.param((STEPS_PER_EPOCH + 4,), id="in a later epoch"),
        pytest.param((STEPS_PER_EPOCH,), id="at an epoch's end"),
        pytest.param((3 * STEPS_PER_EPOCH,), id="at the very end"),
        pytest.param((2, 1, STEPS_PER_EPOCH), id="three times"),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(whole: TrialSpec, stops: tuple[int, ...], tmp_path: Path) -> None:
    stopped = train_with_stops(tmp_path, NOISY, *stops)
    assert same_bits(stored_weights(stopped), stored_weights(whole))
    assert stored_rows(stopped) == stored_rows(whole)
    record, unstopped = stored_record(stopped), stored_record(whole)
    assert (record.best, record.test) == (unstopped.best, unstopped.test)
    assert record.attempts == len(stops) + 1


def test_a_stop_after_the_very_last_step_loses_neither_its_validation_nor_its_metric(tmp_path: Path) -> None:
    stopped = train_with_stops(tmp_path, {"train.epochs": 1}, STEPS_PER_EPOCH)
    best, record = checkpoints_of(stopped).best(), stored_record(stopped)
    assert best is not None
    assert record.best is not None
    assert (best.step, best.metric) == (STEPS_PER_EPOCH, record.best.value)
    assert record.test is not None


def test_the_comparison_would_see_a_difference(whole: TrialSpec, tmp_path: Path) -> None:
    other = make_spec(tmp_path, {**NOISY, "train.seed": 1})
    train_run(other)
    assert not same_bits(stored_weights(other), stored_weights(whole))


def test_the_optimizer_and_the_random_states_come_back_too(whole: TrialSpec, tmp_path: Path) -> None:
    stopped = train_with_stops(tmp_path, NOISY, 5)
    states = [checkpoints_of(spec).load_parts(["optimizer", "random"]) for spec in (stopped, whole)]
    moments = [state["optimizer"]["state"] for state in states]
    assert all(same_bits(moments[0][key], moments[1][key]) for key in moments[1])
    assert torch.equal(states[0]["random"][0]["torch"], states[1]["random"][0]["torch"])


def test_loader_processes_do_not_change_the_result(tmp_path: Path) -> None:
    unstopped = make_spec(tmp_path / "whole", NOISY)
    train_run(unstopped, threads=2)
    stopped = train_with_stops(tmp_path / "stopped", NOISY, STEPS_PER_EPOCH + 3, threads=2)
    assert same_bits(stored_weights(stopped), stored_weights(unstopped))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"schedule.name": "onecycle"}, id="onecycle"),
        pytest.param({"optimizer": {"name": "sgd", "lr": 0.05}}, id="sgd"),
        pytest.param(
            {"train.accumulate": 3, "train.clip_norm": 0.5, "train.precision": "bf16"}, id="bf16, accumulated"
        ),
    ],
)
def test_every_optimizer_and_schedule_resumes(changes: Changes, tmp_path: Path) -> None:
    unstopped = make_spec(tmp_path / "whole", changes)
    train_run(unstopped)
    stopped = train_with_stops(tmp_path / "stopped", changes, STEPS_PER_EPOCH + 3)
    assert same_bits(stored_weights(stopped), stored_weights(unstopped))
    assert stored_rows(stopped) == stored_rows(unstopped)


def test_a_stopped_run_says_so_in_its_record(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    with pytest.raises(InterruptedRunError, match="epoch 2, after step 11"):
        train_run(spec, stop_after=11)
    record = stored_record(spec)
    assert (record.status, record.test) == ("interrupted", None)
    newest = checkpoints_of(spec).infos()[-1]
    assert (newest.step, newest.epoch, newest.metric) == (11, 1, None)


def test_resuming_where_nothing_was_saved_begins(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train.epochs": 1}, resume=True)
    assert train_run(spec).status == "completed"
    assert [row["epoch"] for row in stored_rows(spec)] == [1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.args", {"width": 7}),
        ("model.name", "reference/small-cnn"),
        ("optimizer", {"name": "sgd", "lr": 0.01}),
        ("optimizer.lr", 0.02),
        ("train.batch_size", 16),
        ("train.seed", 1),
        ("data.validation.seed", 1),
    ],
)
def test_a_changed_experiment_is_not_resumed(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train_run(make_spec(tmp_path), stop_after=2)
    before = stored_record(make_spec(tmp_path))
    with pytest.raises(CheckpointError, match=key):
        train_run(make_spec(tmp_path, {key: value}, resume=True))
    assert stored_record(make_spec(tmp_path)) == before


def test_a_run_whose_data_have_changed_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train_run(make_spec(tmp_path), stop_after=2)
    arrays = dict(np.load(tmp_path / "data.npz"))
    arrays["x_train"][0, 0, 0] += 1
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(CheckpointError, match=r"npz:data\.npz has changed since"):
        train_run(make_spec(tmp_path, resume=True))


def test_what_does_not_change_the_training_may_change_on_resume(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train_run(make_spec(tmp_path), stop_after=2)
    spec = make_spec(tmp_path, {"checkpoint.keep_last": 5, "train.epochs": 4}, resume=True)
    assert train_run(spec).status == "completed"
    assert [row["epoch"] for row in stored_rows(spec)] == [1, 2, 3, 4]


def test_an_epoch_whose_metrics_were_not_written_in_time_is_in_the_resumed_record(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train_run(make_spec(tmp_path), stop_after=2 * STEPS_PER_EPOCH + 1)
    path = tmp_path / "runs" / "quadrants" / "r1" / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])  # as a kill between the two writes leaves it
    resumed = make_spec(tmp_path, resume=True)
    train_run(resumed)
    assert [row["epoch"] for row in stored_rows(resumed)] == [1, 2, 3]


def test_a_killed_run_goes_on_and_ends_the_same(whole: TrialSpec, tmp_path: Path) -> None:
    slow = {**NOISY, "model.args": {"dropout": 0.3, "wait_s": 0.05}}
    spec = make_spec(tmp_path, slow)
    code = (
        "import sys; from pathlib import Path; from tuneyard.trainers.parallel.worker import train_here;"
        "from tuneyard.trainers.session import Session; from tuneyard.trainers.spec import TrialSpec;"
        "spec = TrialSpec.model_validate_json(Path(sys.argv[1]).read_text());"
        "train_here(spec, Session(threads=1, cpu=True))"
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "spec.json")])
    manifests = tmp_path / "runs" / spec.prefix / "checkpoints"
    deadline = time.monotonic() + 60
    while not any(manifests.glob("*/manifest-*.json")):
        assert process.poll() is None, "it ended before it saved anything"
        assert time.monotonic() < deadline, "it saved nothing"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert stored_record(spec).status == "running"
    resumed = make_spec(tmp_path, slow, resume=True)
    train_run(resumed)
    assert same_bits(stored_weights(resumed), stored_weights(whole))
    assert stored_rows(resumed) == stored_rows(whole)


def test_a_copy_that_takes_its_time_holds_the_state_of_its_step(
    whole: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = copying.copy_all

    def late(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if threading.current_thread().name.startswith("staging-later"):
            time.sleep(0.2)  # the next step's gradients are long there
        real(pairs)

    monkeypatch.setattr(copying, "copy_all", late)
    resumed = train_with_stops(tmp_path, NOISY, 3, STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    assert same_bits(stored_weights(resumed), stored_weights(whole))
    saved = checkpoints_of(resumed).load_parts(["model"], step=2 * STEPS_PER_EPOCH)["model"]
    assert same_bits(saved, checkpoints_of(whole).load_parts(["model"], step=2 * STEPS_PER_EPOCH)["model"])

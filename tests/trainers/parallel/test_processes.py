"""Several worker processes train as one would, stop together, and fail together."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch

from tests.trainers.runs import make_spec, stored_record, stored_rows, stored_weights, train_run
from tests.waiting import wait_until
from tuneyard.trainers.claims import Claims
from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.parallel import processes
from tuneyard.trainers.parallel.processes import WorkerError, train_in_processes
from tuneyard.trainers.record import RunRecord
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store

SLOW = {"model.args": {"wait_s": 0.06}, "train.batch_size": 8, "resources.spare_workers": 0}
"""Twelve steps an epoch: workers agree to stop at every eighth, so never at the end of the first or second epoch."""
WRONG = {"train.strategy": "zero2", "train.deepspeed.config": "nowhere.json", "resources.spare_workers": 0}
PATIENCE_S = 90.0


def has_saved(spec: TrialSpec, folder: Path) -> bool:
    return any((folder / "runs" / spec.prefix / "checkpoints").glob("*/manifest-*.json"))


@pytest.fixture(scope="module")
def stopped_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialSpec, RunRecord]:
    """A run of two workers that got SIGTERM after its first checkpoint, and went on; and its record in between."""
    folder = tmp_path_factory.mktemp("two")
    spec = make_spec(folder, SLOW)

    def stop() -> None:
        wait_until(lambda: has_saved(spec, folder))
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(InterruptedRunError, match="run r1 was stopped"):
        train_in_processes(spec, 2, 1)
    stopper.join()
    between = stored_record(spec)
    train_in_processes(spec.model_copy(update={"resume": True}), 2, 1)
    return spec, between


def test_a_signal_stops_all_workers_and_saves(stopped_and_resumed: tuple[TrialSpec, RunRecord]) -> None:
    assert stopped_and_resumed[1].status == "interrupted"


def test_the_record_is_written_by_one_worker_alone(stopped_and_resumed: tuple[TrialSpec, RunRecord]) -> None:
    spec = stopped_and_resumed[0]
    record = stored_record(spec)
    assert (record.status, record.attempts) == ("completed", 2)
    assert [row["epoch"] for row in stored_rows(spec)] == [1, 2, 3]
    manifests = list((Path(spec.project_dir) / "runs" / spec.prefix / "checkpoints").glob("*/*.json"))
    # One for each step, of an attempt that was claimed, as worker 0 alone does.
    assert len({path.parent for path in manifests}) == len(manifests) >= 2
    assert {path.name.split("-")[1] for path in manifests} <= {"0001", "0002"}


def test_two_workers_train_like_one(stopped_and_resumed: tuple[TrialSpec, RunRecord], tmp_path: Path) -> None:
    two = stopped_and_resumed[0]
    one = make_spec(tmp_path, {"train.batch_size": 8})
    train_run(one)
    alone = stored_weights(one)
    for name, weight in stored_weights(two).items():
        torch.testing.assert_close(weight, alone[name], rtol=1e-5, atol=1e-6)
    for row, expected in zip(stored_rows(two), stored_rows(one), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    test, expected_test = stored_record(two).test, stored_record(one).test
    assert test == pytest.approx(expected_test, rel=1e-4)


def test_a_worker_that_fails_twice_at_the_same_step_ends_them_all_with_one_error(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"model.name": "task.py:Failing", "resources.spare_workers": 0})
    before = psutil.Process().children(recursive=True)
    with pytest.raises(WorkerError, match=r"(?s)Worker 1 of 2 failed:.*the second worker is out of luck.*twice at the"):
        train_in_processes(spec, 2, 1)
    assert psutil.Process().children(recursive=True) == before
    assert stored_record(spec).status == "failed"


def test_who_has_taken_a_run_over_keeps_its_record(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    train_run(spec)
    claims = Claims(open_store(spec.store_uri), f"{spec.prefix}claims/")
    holder = claims.holder(1)
    assert holder is not None
    elsewhere = holder.model_copy(update={"machine": "another boot"})
    open_store(spec.store_uri).put(claims.key(2), elsewhere.model_dump_json().encode())
    processes._record_failure(spec, "a worker was lost")
    assert stored_record(spec).status == "completed"
    gone = holder.model_copy(update={"began": -2})
    open_store(spec.store_uri).put(claims.key(2), gone.model_dump_json().encode())
    processes._record_failure(spec, "a worker was lost")
    assert (stored_record(spec).status, stored_record(spec).error) == ("failed", "a worker was lost")


def test_a_mistake_that_all_workers_find_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        train_in_processes(make_spec(tmp_path, WRONG), 2, 1)
    assert str(caught.value).count("nowhere.json cannot be read") == 1
    assert "Traceback" not in str(caught.value)


def test_neither_worker_nor_spare_outlives_a_starter_that_was_killed(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"model.args": {"wait_s": 0.2}, "train.epochs": 1000})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from tuneyard.trainers.spec import TrialSpec;"
        "from tuneyard.trainers.parallel.processes import train_in_processes;"
        "train_in_processes(TrialSpec.model_validate_json(Path(sys.argv[1]).read_text()), 2, 1)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "spec.json")])
    # The spare is killed in its imports, before it can have asked to die with its parent.
    wait_until(lambda: len(psutil.Process(starter.pid).children()) == 3)
    workers = psutil.Process(starter.pid).children()
    starter.kill()
    starter.wait()
    assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []

"""Real sweeps that go on: grown, warm-started, damaged, and after the loss of the driver."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import PREFIX, SWEEP_ID, Swept, make_project, ray_of_two_cores, sweep
from tuneyard.trainers.errors import ConfigError, StoreError
from tuneyard.trainers.record import read_metrics, read_run, read_sweep
from tuneyard.trainers.stores.store import open_store
from tuneyard.tune.index import NAME, read_index

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

SMALL: dict[str, Any] = {"tune.trials": 3, "tune.search": "tpe", "train.epochs": 1}
WITH_DECAY = {"optimizer.lr": {"loguniform": [0.001, 0.1]}, "optimizer.weight_decay": {"uniform": [0.0, 0.1]}}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray of two cores for all sweeps here."""
    yield from ray_of_two_cores()


@pytest.fixture(scope="module")
def finished(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Three trials of one epoch."""
    return sweep(tmp_path_factory.mktemp("finished"), SMALL)


@pytest.fixture
def copied(finished: Swept, tmp_path: Path) -> Path:
    """That sweep's folder, to do as one likes."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_finished_sweep_grows_in_another_space_and_by_another_metric(finished: Swept, copied: Path) -> None:
    changes = SMALL | {"tune.space": WITH_DECAY, "tune.metric": "val/loss", "tune.mode": "min"}
    grown = sweep(copied, changes, resume=True, grow=2)
    assert sorted(grown.records) == ["0001", "0002", "0003", "0004", "0005"]
    assert sorted(set(grown.heard.began)) == ["0004", "0005"]
    assert set(grown.records["0004"].overrides) == set(WITH_DECAY)
    assert grown.sweep.metric.name == "val/loss"
    assert grown.sweep.grown_from[0]["metric"] == "val/accuracy"


def test_what_is_trained_may_not_change_as_a_sweep_grows(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size was 12 .* and is 24"):
        sweep(copied, SMALL | {"train.batch_size": 24}, resume=True, grow=1)


def test_another_sweep_is_learned_from_and_not_trained_again(finished: Swept, tmp_path: Path) -> None:
    source = f"{(finished.folder / 'runs').as_uri()}/{PREFIX}"
    swept = sweep(tmp_path, SMALL | {"tune.trials": 1}, warm_start=[source])
    assert list(swept.records) == ["0001"]


def test_a_sweep_to_learn_from_that_is_not_there_is_told(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--warm-start nowhere: there is no sweep at .*quadrants/nowhere/"):
        sweep(tmp_path, SMALL, warm_start=["nowhere"])


def test_every_trial_is_in_the_index(finished: Swept) -> None:
    index = read_index(finished.store, PREFIX)
    assert [(trial.trial_id, trial.status) for trial in index] == [(f"000{n}", "completed") for n in (1, 2, 3)]
    values = {trial.trial_id: trial.value for trial in index}
    assert values == {run_id: record.best and record.best.value for run_id, record in finished.records.items()}


def test_a_damaged_index_is_refused(copied: Path) -> None:
    (copied / "runs" / PREFIX / NAME).write_text('{"format": 1, "trials": [{"tri')
    with pytest.raises(StoreError, match=r"trials\.json is damaged .* Restore it from a copy"):
        sweep(copied, SMALL, resume=True)


def test_a_damaged_record_is_refused(copied: Path) -> None:
    (copied / "runs" / PREFIX / "0002" / "run.json").write_bytes(b"\x00" * 40)
    with pytest.raises(StoreError, match=r"0002/run\.json is damaged"):
        sweep(copied, SMALL, resume=True)


def test_a_lost_record_is_refused_and_its_trial_not_silently_trained_anew(copied: Path) -> None:
    (copied / "runs" / PREFIX / "0002" / "run.json").unlink()
    with pytest.raises(StoreError, match=r"0002/run\.json is gone, but trials\.json says"):
        sweep(copied, SMALL, resume=True)


DRIVER = """
import sys
from pathlib import Path
from tests.tune.sweeps import sweep
sweep(Path(sys.argv[1]), {changes!r})
"""
SLOW: dict[str, Any] = {
    "model.args": {"wait_s": 0.05}, "tune.trials": 4, "tune.scheduler": "asha", "tune.reduction_factor": 2,
}  # fmt: skip


@pytest.mark.slow
def test_a_sweep_whose_driver_was_killed_goes_on_where_it_was(local_ray: None, tmp_path: Path) -> None:
    make_project(tmp_path)
    epochs = tmp_path / "runs" / PREFIX
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(changes=SLOW), str(tmp_path)], cwd=Path(__file__).parents[2],
        env=os.environ | {"RAY_ADDRESS": _address()}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while len(list(epochs.glob("*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    store = open_store(str(tmp_path / "runs"))
    assert read_sweep(store, PREFIX).status == "running"
    before = {path.parent.name: path.read_text().splitlines() for path in epochs.glob("*/metrics.jsonl")}
    resumed = sweep(tmp_path, SLOW, resume=True)
    assert resumed.sweep.status == "completed"
    assert len({record.trial_id for record in resumed.records.values()}) == 4
    assert "completed" in {record.status for record in resumed.records.values()}
    for run_id, lines in before.items():
        assert [json.loads(line) for line in lines] == read_metrics(store, f"{PREFIX}{run_id}/")[: len(lines)]
        assert read_run(store, f"{PREFIX}{run_id}/").sweep_id == SWEEP_ID


def _address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)

"""What a sweep knows of its earlier trials."""

from pathlib import Path

import pytest

from tests.tune.records import ACCURACY, store_at, write_run, write_sweep
from tuneyard.trainers.record import BestEpoch, RunStatus, read_run, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.history import EarlierRun, read_earlier

PREFIX = "fashion/s1/"


def write_trial(store: Store, run_id: str, best: float | None, status: RunStatus = "completed") -> None:
    """A trial of the sweep whose record holds its best value."""
    prefix = f"{PREFIX}{run_id}/"
    write_run(store, prefix, [] if best is None else [best], status=status, overrides={"optimizer.lr": 0.1})
    chosen = None if best is None else BestEpoch(value=best, epoch=1, step=10)
    write_record(store, prefix, read_run(store, prefix).model_copy(update={"best": chosen}))


def test_the_trials_of_one_sweep_are_read_in_order(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_sweep(store, PREFIX, [])
    for run_id in ("0010", "0002", "0001"):
        write_trial(store, run_id, 0.5)
    write_run(store, "fashion/s2/0003/", [0.9])
    assert [trial.record.run_id for trial in read_earlier(store, PREFIX)] == ["0001", "0002", "0010"]


def test_a_trial_without_a_record_is_passed_over(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.put(f"{PREFIX}0001/metrics.jsonl", b"")
    assert read_earlier(store, PREFIX) == []


@pytest.mark.parametrize(
    ("status", "ended"),
    [("completed", True), ("stopped", True), ("failed", True), ("interrupted", False), ("running", False)],
)
def test_cut_short_and_lost_trials_have_not_ended(tmp_path: Path, status: RunStatus, ended: bool) -> None:
    store = store_at(tmp_path)
    write_trial(store, "0001", 0.5, status)
    assert [trial.ended for trial in read_earlier(store, PREFIX)] == [ended]


def test_values_are_those_of_the_epochs_that_have_the_metric(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_trial(store, "0001", 0.5)
    (trial,) = read_earlier(store, PREFIX)
    rows: list[dict[str, float]] = [{"epoch": 1, "val/accuracy": 0.5}, {"epoch": 2}, {"epoch": 3, "val/accuracy": 0.25}]
    assert EarlierRun(trial.record, rows).values(ACCURACY) == [0.5, 0.25]

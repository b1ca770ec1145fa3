"""The record is written behind the training: the newest version wins, and a fault is told at the end."""

import threading
from pathlib import Path

import pytest

from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.record import Metric, RunRecord, read_metrics, read_run
from tuneyard.trainers.record_writer import RecordWriter
from tuneyard.trainers.stores.file_store import FileStore


def record(attempts: int) -> RunRecord:
    metric = Metric(name="val/accuracy", mode="max")
    return RunRecord(run_id="r", name="n", metric=metric, experiment={}, started="now", attempts=attempts)


class GatedStore(FileStore):
    """Each write waits until it is let through; the first `faults` of them fail."""

    def __init__(self, root: Path, faults: int = 0) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.arrived = threading.Event()
        self.faults = faults
        self.written: list[str] = []

    def put(self, key: str, data: bytes | bytearray | memoryview, *, sha256: bytes | None = None) -> None:
        self.arrived.set()
        assert self.gate.wait(30)
        if self.faults:
            self.faults -= 1
            raise StoreError("the disk is full")
        self.written.append(key)
        super().put(key, data, sha256=sha256)


def test_close_returns_once_all_is_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    writer = RecordWriter(store, "n/r/")
    writer.write(record(1), [{"epoch": 1}])
    writer.close()
    assert read_run(store, "n/r/") == record(1)
    assert read_metrics(store, "n/r/") == [{"epoch": 1}]


def test_training_does_not_wait_for_a_slow_store_and_the_newest_version_wins(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    writer = RecordWriter(store, "")
    writer.write(record(1))
    assert store.arrived.wait(30)
    for attempts in range(2, 50):
        writer.write(record(attempts), [{"epoch": attempts}])
    store.gate.set()
    writer.close()
    assert store.written == ["run.json", "metrics.jsonl", "run.json"]
    assert read_run(store, "").attempts == 49


def test_rows_may_be_changed_after_they_were_given(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    writer = RecordWriter(store, "")
    rows: list[dict[str, float]] = [{"epoch": 1}]
    writer.write(record(1), rows)
    rows.append({"epoch": 2})
    store.gate.set()
    writer.close()
    assert read_metrics(store, "") == [{"epoch": 1}]


def test_a_fault_that_has_passed_is_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = GatedStore(tmp_path, faults=1)
    store.gate.set()
    writer = RecordWriter(store, "")
    writer.write(record(1))
    while store.faults:
        store.arrived.wait(0.01)
    writer.write(record(2))
    writer.close()
    assert read_run(store, "").attempts == 2
    assert caplog.text.count("the disk is full") == 1


def test_a_fault_that_stays_is_raised_at_the_end_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = GatedStore(tmp_path, faults=1000)
    store.gate.set()
    writer = RecordWriter(store, "")
    for attempts in range(5):
        writer.write(record(attempts))
    with pytest.raises(StoreError, match="the disk is full"):
        writer.close()
    assert caplog.text.count("the disk is full") == 1

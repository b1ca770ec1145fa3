"""The run record in a store: written, read back, and what is told where it is damaged."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.record import (
    BestEpoch,
    Metric,
    RunRecord,
    SweepRecord,
    best_epoch,
    read_metrics,
    read_run,
    read_sweep,
    write_metrics,
    write_record,
)
from tuneyard.trainers.stores.store import Store, open_store

ACCURACY = Metric(name="val/accuracy", mode="max")
RECORD = RunRecord(
    run_id="r1",
    name="n",
    metric=ACCURACY,
    experiment={"name": "n"},
    started="2026-01-01T00:00:00+00:00",
    best=BestEpoch(value=0.1 + 0.2, epoch=3, step=30),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_run_comes_back_as_it_was_written(store: Store) -> None:
    write_record(store, "n/r1/", RECORD)
    assert read_run(store, "n/r1/") == RECORD


def test_a_sweep_comes_back_as_it_was_written(store: Store) -> None:
    sweep = SweepRecord(sweep_id="s", name="n", metric=ACCURACY, experiment={}, started="now", trials=["a", "b"])
    write_record(store, "n/s/", sweep)
    assert read_sweep(store, "n/s/") == sweep


def test_metrics_come_back_to_the_last_digit(store: Store) -> None:
    rows = [{"epoch": 1, "val/loss": 0.1 + 0.2}, {"epoch": 2, "val/loss": 1e-300}]
    write_metrics(store, "n/r1/", rows)
    assert read_metrics(store, "n/r1/") == rows
    lines = store.get("n/r1/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_run_without_an_epoch_has_no_metrics(store: Store) -> None:
    assert read_metrics(store, "n/r1/") == []


def test_no_run_is_told_apart_from_a_damaged_one(store: Store) -> None:
    with pytest.raises(MissingKeyError):
        read_run(store, "n/r1/")
    store.put("n/r1/run.json", b'{"run_id": "r1"')
    with pytest.raises(StoreError, match=r"n/r1/run\.json is damaged") as caught:
        read_run(store, "n/r1/")
    assert not isinstance(caught.value, MissingKeyError)


def test_a_key_that_is_missing_is_named(store: Store) -> None:
    write_record(store, "", RECORD)
    tree = json.loads(store.get("run.json"))
    del tree["metric"]["mode"]
    store.put("run.json", json.dumps(tree).encode())
    with pytest.raises(StoreError, match=r"run\.json is damaged: metric\.mode: Field required"):
        read_run(store, "")


def test_damaged_metrics_are_told(store: Store) -> None:
    store.put("metrics.jsonl", b'{"epoch": 1}\n{"epo')
    with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
        read_metrics(store, "")


def test_a_record_of_a_later_version_can_still_be_read(store: Store) -> None:
    tree = json.loads(RECORD.model_dump_json())
    store.put("run.json", json.dumps(tree | {"added_later": {"a": 1}}).encode())
    assert read_run(store, "") == RECORD


@pytest.mark.parametrize(
    ("mode", "value", "than", "expected"),
    [
        ("max", 0.6, 0.5, True),
        ("max", 0.5, 0.5, False),
        ("max", 0.4, 0.5, False),
        ("min", 0.4, 0.5, True),
        ("min", 0.6, 0.5, False),
        ("max", 0.1, None, True),
        ("max", 0.1, float("nan"), True),
        ("min", float("nan"), 0.5, False),
        ("min", float("nan"), None, False),
        ("min", float("-inf"), 0.5, False),
        ("max", None, None, False),
    ],
)
def test_better(mode: Any, value: float | None, than: float | None, expected: bool) -> None:
    assert Metric(name="m", mode=mode).better(value, than) is expected


def test_of_equal_epochs_the_newest_is_the_best_as_of_checkpoints() -> None:
    values = (0.5, 0.75, 0.75, math.nan, 0.25)
    rows = [{"epoch": number, "step": 10 * number, "val/accuracy": value} for number, value in enumerate(values, 1)]
    assert best_epoch(rows, ACCURACY) == BestEpoch(value=0.75, epoch=3, step=30)
    assert best_epoch(rows[3:4], ACCURACY) is None

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.trainers.checkpoints.saves import PREFIX, NumberedFence, WrappedStore, blobs, saved, state, steps, value_of
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.files import Found, Place
from tuneyard.trainers.checkpoints.manifest import Manifest, RunFacts
from tuneyard.trainers.checkpoints.retention import Retention
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.stores.store import Store


def found(step: int, metric: float | None = None, hour: float = 0.0) -> Found:
    saved_at = (datetime.fromisoformat("2026-01-01T00:00:00+00:00") + timedelta(hours=hour)).isoformat()
    return Place(step, 1, 1, str(step)), Manifest(step, 0, metric, saved_at, 1, RunFacts(), {})


def test_the_last_and_the_best_stay(store: Store) -> None:
    assert steps(saved(store, 1.0, 9.0, 3.0, 8.0, 2.0, 1.0, keep_last=2, keep_best=2)) == [20, 40, 50, 60]
    assert len(store.keys(PREFIX)) == 4 + 4 + 1, "manifests, models, and the frozen part"


def test_the_best_by_the_smallest(store: Store) -> None:
    checkpoints = saved(store, 3.0, 1.0, 2.0, 4.0, keep_last=1, mode="min")
    assert steps(checkpoints) == [20, 40]
    best = checkpoints.best()
    assert best is not None
    assert best.step == 20


def test_of_equal_metrics_the_newer_is_best() -> None:
    equal = [found(1, 0.5), found(2, 0.5), found(3)]
    assert Retention(keep_last=1, keep_best=1).kept(equal, set()) == {"2", "3"}


def test_the_young_stay_too() -> None:
    saves = [found(1, hour=0), found(2, hour=1.5), found(3, hour=2), found(4, hour=3.5)]
    assert Retention(keep_last=1, keep_best=0, keep_hours=2).kept(saves, set()) == {"2", "3", "4"}


@pytest.mark.parametrize("hours", [-1000.0, 1000.0])
def test_a_clock_that_was_wrong_drops_neither_the_last_nor_the_best(hours: float) -> None:
    saves = [found(1, 0.9, hour=hours), found(2, 0.5, hour=0), found(3, 0.4, hour=hours), found(4, 0.3, hour=0)]
    assert Retention(keep_last=2, keep_best=1, keep_hours=1).kept(saves, set()) >= {"1", "3", "4"}


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"keep_best": -1}, {"keep_hours": -1.0}])
def test_a_retention_that_keeps_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="Allowed: from 1, from 0 and from 0 on"):
        replace(Retention(), **wrong)  # type: ignore[arg-type]


def test_blobs_that_a_kept_checkpoint_shares_stay(store: Store) -> None:
    checkpoints = saved(store, 1.0, 2.0, 3.0, 4.0, keep_last=1, keep_best=0)
    assert steps(checkpoints) == [40]
    assert value_of(checkpoints.load()) == 4.0
    assert len(blobs(store)) == 2


def test_nothing_is_deleted_before_the_new_one_is_committed(store: Store) -> None:
    there: list[bool] = []

    def look(call: str, key: str) -> None:
        if call == "delete" and ("/blobs/" in key or "/checkpoints/" in key):
            there.append(bool(store.keys(f"{PREFIX}checkpoints/0000000020/")))

    checkpoints = saved(WrappedStore(store, look), 1.0, 2.0, keep_last=1, keep_best=0)
    assert steps(checkpoints) == [20]
    assert there == [True, True]


def test_a_failed_pruning_does_not_fail_the_save(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def fail(call: str, key: str) -> None:
        if call == "delete" and "/checkpoints/" in key:
            raise StoreError("may not delete")

    checkpoints = saved(WrappedStore(store, fail), 1.0, 2.0, keep_last=1, keep_best=0)
    assert value_of(checkpoints.load()) == 2.0
    assert "may not delete" in caplog.text


def test_what_a_replaced_attempt_saved_too_late_is_not_read_and_goes(store: Store) -> None:
    first = saved(store, 1.0, 2.0, 3.0, keep_last=3, fence=NumberedFence(1))
    second = Checkpoints(store, PREFIX, keep_last=3, fence=NumberedFence(2, {2: 10}))
    assert value_of(second.load()) == 1.0
    assert steps(first) == [10, 20, 30]
    second.save(state(5.0), step=20, epoch=2, metric=5.0)
    second.close()
    assert steps(Checkpoints(store, PREFIX)) == [10, 20]
    assert value_of(Checkpoints(store, PREFIX).load()) == 5.0

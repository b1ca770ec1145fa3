import logging
import threading
import time
from typing import Literal

import pytest
import torch

from tests.trainers.checkpoints.saves import PREFIX, NumberedFence, SlowStore, blobs, saved, state, steps, value_of
from tuneyard.trainers.checkpoints import checkpoints as face
from tuneyard.trainers.checkpoints import copying
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.errors import CheckpointError, FencedError, StoreError
from tuneyard.trainers.stores.store import Store


def test_save_does_not_wait_for_the_store_and_the_newest_wish_wins(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    for step in (2, 3, 4):
        checkpoints.save(state(float(step)), step=step, epoch=0, metric=None)
    assert steps(checkpoints) == []
    slow.open.set()
    checkpoints.close()
    assert steps(checkpoints) == [1, 4]
    assert value_of(checkpoints.load(1)) == 1.0
    assert value_of(checkpoints.load(4)) == 4.0
    assert checkpoints.left_out == 2
    assert ["left out" in record.message for record in caplog.records] == [True]


def save_all(checkpoints: Checkpoints, metrics: dict[int, float | None]) -> None:
    for step, metric in metrics.items():
        checkpoints.save(state(float(step)), step=step, epoch=0, metric=metric)


@pytest.mark.parametrize(
    ("mode", "metrics", "saved_steps"),
    [
        ("max", {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.6}, [1, 2, 4]),
        ("min", {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.6}, [1, 2, 4]),
        ("max", {1: 0.1, 2: 0.8, 3: 0.9, 4: 0.6}, [1, 3, 4]),
        ("max", {1: 0.1, 2: 0.9, 3: 0.9, 4: None}, [1, 3, 4]),
        ("max", {1: 0.1, 2: 0.8, 3: 0.2, 4: 0.9}, [1, 4]),
        ("max", {1: 0.9, 2: 0.8, 3: float("nan"), 4: 0.7}, [1, 4]),
    ],
)
def test_the_best_that_waits_gives_way_to_a_better_one_alone(
    store: Store, mode: Literal["min", "max"], metrics: dict[int, float | None], saved_steps: list[int]
) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX, mode=mode, keep_last=9)
    save_all(checkpoints, {1: metrics.pop(1)})
    assert slow.busy.wait(60)
    save_all(checkpoints, metrics)
    slow.open.set()
    checkpoints.close()
    assert steps(checkpoints) == saved_steps
    assert [value_of(checkpoints.load(step)) for step in saved_steps] == [float(step) for step in saved_steps]
    assert checkpoints.left_out == 4 - len(saved_steps)


def test_without_room_for_a_third_copy_the_best_is_waited_for(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX, staging_bytes=20_000, keep_last=9)
    save_all(checkpoints, {1: 0.1})
    assert slow.busy.wait(60)
    save_all(checkpoints, {2: 0.9})
    opener = threading.Timer(0.2, slow.open.set)
    opener.start()
    begun = time.monotonic()
    save_all(checkpoints, {3: 0.5})
    assert time.monotonic() - begun >= 0.19
    checkpoints.close()
    assert steps(checkpoints) == [1, 2, 3]
    assert ["no room for another copy" in record.message for record in caplog.records] == [True]


def test_bytes_that_are_not_durable_yet_are_counted(store: Store) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    assert checkpoints.pending_bytes == 8000 + 64 + 64
    assert not checkpoints.wait(timeout_s=0.01)
    slow.open.set()
    assert checkpoints.wait()
    assert checkpoints.pending_bytes == 0
    assert checkpoints.durable_step == 1


def test_progress_is_told_while_the_last_save_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_TELL_AFTER_S", 0.01)
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        slow.open.set()

    assert checkpoints.close(tell)
    assert told[0] == (0, 8128)


def test_a_close_with_a_deadline_says_that_it_was_not_met(store: Store) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    assert not checkpoints.close(timeout_s=0.01)
    assert checkpoints.durable_step is None
    slow.open.set()
    assert checkpoints.wait()


def test_memory_is_kept_while_the_shapes_stay(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    (staging,) = checkpoints._saver._idle
    regions = {name: part._region.data_ptr() for name, part in staging.parts.items()}
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.wait()
    assert checkpoints._saver._idle == [staging], "one is enough"
    assert {name: part._region.data_ptr() for name, part in staging.parts.items()} == regions
    checkpoints.save(state(3.0) | {"frozen": state(3.0)["frozen"][:7]}, step=30, epoch=3, metric=None)
    checkpoints.wait()
    assert len(checkpoints.load_parts(["frozen"])["frozen"]) == 7


def test_without_room_for_a_second_copy_a_save_waits(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX, staging_bytes=10_000)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    slow.open.set()
    checkpoints.save(state(2.0), step=2, epoch=0, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [1, 2]
    assert checkpoints.left_out == 0
    assert len(checkpoints._saver._idle) == 1
    assert all("checkpoint.staging_gb" in record.message for record in caplog.records)


def test_a_state_larger_than_the_memory_for_its_copy_is_refused(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX, staging_bytes=5_000)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"checkpoint\.staging_gb: the state of this run has 8\.\d+e-06 GB"):
            checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    checkpoints.close()


def test_a_failed_save_is_logged_and_raised_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowStore(store)
    slow.failures_left = 2
    slow.open.set()
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    with pytest.raises(StoreError, match="the disk is full"):
        checkpoints.wait()
    assert "step 1 was not saved" in caplog.text
    checkpoints.close()
    assert checkpoints.load() is None


def test_a_later_save_makes_up_for_a_failed_one(store: Store) -> None:
    slow = SlowStore(store)
    slow.failures_left = 1
    checkpoints = Checkpoints(slow, PREFIX)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    checkpoints.save(state(2.0), step=2, epoch=0, metric=None)
    slow.open.set()
    checkpoints.close()
    assert steps(checkpoints) == [2]
    assert store.keys(f"{PREFIX}pending/") == [], "what the failed one had announced is withdrawn too"
    checkpoints.sweep()
    assert len(blobs(store)) == 2, "what the failed one had uploaded before it failed was not kept by any list"


def test_a_mistake_of_ours_in_the_background_is_not_swallowed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("mistake")

    checkpoints = Checkpoints(store, PREFIX)
    monkeypatch.setattr(checkpoints._committer, "commit", fail)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    with pytest.raises(KeyError, match="mistake"):
        checkpoints.wait()
    with pytest.raises(KeyError, match="mistake"):
        checkpoints.save(state(2.0), step=2, epoch=0, metric=None)


def test_an_attempt_that_was_replaced_saves_nothing_more(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    fence = NumberedFence(1)
    checkpoints = saved(store, 1.0, fence=fence)
    fence.replaced_at[2] = 10
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    for _ in range(2):
        with pytest.raises(FencedError):
            checkpoints.wait()
        with pytest.raises(FencedError):
            checkpoints.save(state(3.0), step=30, epoch=3, metric=None)
    assert steps(Checkpoints(store, PREFIX)) == [10]


def test_what_is_steady_is_copied_by_the_time_it_may_change(store: Store) -> None:
    may_copy = threading.Event()
    checkpoints = Checkpoints(store, PREFIX)
    weights, counter = torch.zeros(2**20), torch.zeros(4)
    copying._background().submit(may_copy.wait, 60)  # whatever is to be copied later comes after this
    tree = {"model": {"weights": weights, "counter": counter}}
    checkpoints.save(tree, step=1, epoch=1, metric=None, steady={weights.data_ptr()})
    counter.fill_(1.0)  # not steady: it was copied before `save` returned
    threading.Timer(0.05, may_copy.set).start()
    checkpoints.settle()
    assert may_copy.is_set()
    weights.fill_(1.0)
    checkpoints.close()
    loaded = checkpoints.load()
    assert loaded is not None
    assert not loaded[1]["model"]["weights"].any()
    assert not loaded[1]["model"]["counter"].any()

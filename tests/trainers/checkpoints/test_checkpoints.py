import json
import logging
import math
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import safetensors.torch
import torch

from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.stores.store import Bytes, Store, open_store

PREFIX = "exp/run/"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def state(value: float) -> dict[str, Any]:
    """A small state: a part that changes with `value`, one that never does, and one without tensors."""
    return {
        "model": {"weight": torch.full((3, 4), value), "count": torch.tensor(7)},
        "frozen": torch.arange(1000),
        "progress": {"value": value, "order": (1, 2)},
    }


def value_of(loaded: tuple[Any, dict[str, Any]] | None) -> float:
    """The value that the loaded state was made with, after a look at all of it."""
    assert loaded is not None
    value = float(loaded[1]["progress"]["value"])
    assert torch.equal(loaded[1]["model"]["weight"], torch.full((3, 4), value))
    assert torch.equal(loaded[1]["frozen"], torch.arange(1000))
    return value


def saved(store: Store, *values: float, **options: Any) -> Checkpoints:
    """A run that saved one checkpoint for each value, at the steps 10, 20, …; the value is the metric too."""
    checkpoints = Checkpoints(store, PREFIX, **options)
    for number, value in enumerate(values, start=1):
        checkpoints.save(state(value), step=10 * number, epoch=number, metric=value)
        checkpoints.wait()
    return checkpoints


def steps(checkpoints: Checkpoints) -> list[int]:
    return [info.step for info in checkpoints.infos()]


def blob_of(store: Store, step: int, part: str) -> str:
    (manifest,) = store.keys(f"{PREFIX}checkpoints/{step:010d}/")
    return PREFIX + str(json.loads(store.get(manifest))["body"]["parts"][part]["key"])


class SlowStore:
    """A store whose puts wait until they are let go, and can be made to fail."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.open = threading.Event()
        self.busy = threading.Event()
        self.failures_left = 0
        self.uri = inner.uri
        self.create, self.get, self.exists = inner.create, inner.get, inner.exists
        self.keys, self.delete, self.check = inner.keys, inner.delete, inner.check

    def put(self, key: str, data: Bytes) -> None:
        self.busy.set()
        assert self.open.wait(60)
        if self.failures_left:
            self.failures_left -= 1
            raise StoreError(f"{self.uri}: the disk is full")
        self._inner.put(key, data)


# Saving and loading


def test_what_was_saved_is_loaded(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    loaded = Checkpoints(store, PREFIX).load()
    assert value_of(loaded) == 2.0
    assert loaded is not None
    assert loaded[0].step == 20
    assert loaded[0].epoch == 2
    assert loaded[0].metric == 2.0
    assert loaded[0].uri.startswith(f"{store.uri}/{PREFIX}checkpoints/0000000020/manifest-")
    assert loaded[1]["progress"]["order"] == (1, 2)


@pytest.mark.s3
def test_the_same_in_s3(s3_server: SeaweedServer) -> None:
    store = open_store(f"s3://tests/{uuid4().hex}", endpoint_url=s3_server.endpoint_url)
    checkpoints = saved(store, 1.0, 2.0, 3.0, 4.0, keep_last=1, mode="min")
    assert steps(checkpoints) == [10, 40]
    assert value_of(checkpoints.load()) == 4.0
    assert value_of(checkpoints.load(10)) == 1.0


def test_nothing_saved_is_none(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX)
    assert checkpoints.load() is None
    assert checkpoints.best() is None
    assert checkpoints.infos() == []


def test_a_change_after_save_does_not_reach_the_checkpoint(store: Store) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX)
    live = state(1.0)
    checkpoints.save(live, step=1, epoch=0, metric=None)
    live["model"]["weight"].fill_(9.0)
    live["progress"]["value"] = 9.0
    slow.open.set()
    checkpoints.close()
    assert value_of(checkpoints.load()) == 1.0


def test_save_does_not_wait_for_the_store_and_the_newest_wish_wins(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    slow = SlowStore(store)
    checkpoints = Checkpoints(slow, PREFIX, keep_last=9)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    assert slow.busy.wait(60)
    for step in (2, 3, 4):
        checkpoints.save(state(float(step)), step=step, epoch=0, metric=None)
    assert store.keys(PREFIX) == []
    slow.open.set()
    checkpoints.close()
    assert steps(checkpoints) == [1, 4]
    assert value_of(checkpoints.load(1)) == 1.0
    assert value_of(checkpoints.load(4)) == 4.0
    assert [record.args for record in caplog.records if "left out" in record.message] == [(2, f"{store.uri}/{PREFIX}")]


def test_buffers_are_kept_while_the_shapes_stay(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    buffers = [part._buffer for staging in checkpoints._idle for part in staging.parts.values()]
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.wait()
    assert [part._buffer for staging in checkpoints._idle for part in staging.parts.values()] == buffers
    changed = state(3.0) | {"frozen": torch.arange(7)}
    checkpoints.save(changed, step=30, epoch=3, metric=None)
    checkpoints.wait()
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded[1]["frozen"], torch.arange(7))


def test_any_reader_of_safetensors_reads_the_blobs(store: Store) -> None:
    tree = {
        "z": torch.tensor([True, False, True]),
        "bf16": torch.randn(3).bfloat16(),
        "wide": torch.randn(5, dtype=torch.float64),
        "nhwc": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(2, 3).T,
    }
    checkpoints = Checkpoints(store, PREFIX)
    checkpoints.save({"model": tree}, step=1, epoch=0, metric=None)
    checkpoints.close()
    read = safetensors.torch.load(store.get(blob_of(store, 1, "model")))
    assert {name: tensor.dtype for name, tensor in read.items()} == {name: t.dtype for name, t in tree.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in tree.items())


def test_parts_are_read_alone(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    store.delete(blob_of(store, 10, "frozen"))
    assert list(checkpoints.load_parts(["model"])) == ["model"]
    with pytest.raises(CheckpointError, match="Did you mean 'model'"):
        checkpoints.load_parts(["modle"])


def test_parts_of_nothing_are_an_error(store: Store) -> None:
    with pytest.raises(CheckpointError, match="Train the run first"):
        Checkpoints(store, PREFIX).load_parts(["model"])


def test_a_state_that_cannot_be_saved_is_refused_and_the_next_is_saved(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    for _ in range(3):
        with pytest.raises(CheckpointError, match="object at x"):
            checkpoints.save({"model": {"x": object()}}, step=20, epoch=2, metric=None)
    checkpoints.save(state(3.0), step=30, epoch=3, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [10, 30]


# Failures in the background


def test_a_failed_save_is_logged_and_raised_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowStore(store)
    slow.failures_left = 1
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


def test_a_mistake_of_ours_in_the_background_is_not_swallowed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyError("mistake")

    checkpoints = Checkpoints(store, PREFIX)
    monkeypatch.setattr(checkpoints, "_commit", fail)
    checkpoints.save(state(1.0), step=1, epoch=0, metric=None)
    with pytest.raises(KeyError, match="mistake"):
        checkpoints.wait()
    with pytest.raises(KeyError, match="mistake"):
        checkpoints.save(state(2.0), step=2, epoch=0, metric=None)


def test_a_crash_between_blobs_and_manifest_leaves_no_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> bool:
        raise StoreError("the process ends here")

    checkpoints = saved(store, 1.0)
    blobs = store.keys(f"{PREFIX}blobs/")
    with monkeypatch.context() as patch:
        patch.setattr(store, "create", crash)
        checkpoints.save(state(2.0), step=20, epoch=2, metric=2.0)
        with pytest.raises(StoreError):
            checkpoints.wait()
    assert len(store.keys(f"{PREFIX}blobs/")) > len(blobs)
    assert steps(checkpoints) == [10]
    assert value_of(Checkpoints(store, PREFIX).load()) == 1.0
    assert checkpoints.sweep() == 1  # the model's; the other parts have no tensors that changed
    assert store.keys(f"{PREFIX}blobs/") == blobs


# Damage


def flip_a_bit(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]


@pytest.mark.parametrize("harm", [flip_a_bit, lambda data: data[:-1], lambda _: b"", lambda data: data + b"\0"])
def test_a_damaged_blob_leads_to_the_checkpoint_before(
    store: Store, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    saved(store, 1.0, 2.0).close()
    blob = blob_of(store, 20, "model")
    store.put(blob, harm(store.get(blob)))
    assert value_of(Checkpoints(store, PREFIX).load()) == 1.0
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "step 20" in record.message
    assert "'model'" in record.message


def test_a_missing_blob_leads_to_the_checkpoint_before(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    saved(store, 1.0, 2.0).close()
    store.delete(blob_of(store, 20, "model"))
    assert value_of(Checkpoints(store, PREFIX).load()) == 1.0
    assert "part 'model' is missing" in caplog.text


@pytest.mark.parametrize("harm", [flip_a_bit, lambda data: data[:100], lambda _: b"", lambda _: b"[]", lambda _: b"{}"])
def test_a_damaged_manifest_leads_to_the_checkpoint_before(store: Store, harm: Any) -> None:
    saved(store, 1.0, 2.0).close()
    (key,) = store.keys(f"{PREFIX}checkpoints/0000000020/")
    store.put(key, harm(store.get(key)))
    checkpoints = Checkpoints(store, PREFIX)
    assert value_of(checkpoints.load()) == 1.0
    assert steps(checkpoints) == [10]


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    (key,) = store.keys(f"{PREFIX}checkpoints/")
    whole = store.get(key)
    for at in range(0, len(whole), 5):
        store.put(key, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            checkpoints.load(10)


def test_all_damaged_is_an_error(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    store.delete(blob_of(store, 10, "frozen"))
    with pytest.raises(CheckpointError, match=r"none of the 2 .* is whole"):
        Checkpoints(store, PREFIX).load()


def test_a_step_asked_for_is_not_replaced_by_another(store: Store) -> None:
    checkpoints = saved(store, 1.0, 2.0)
    with pytest.raises(CheckpointError, match=r"step 15 is not there.*Saved steps: 10, 20"):
        checkpoints.load(15)
    store.delete(blob_of(store, 20, "model"))
    with pytest.raises(CheckpointError, match="step 20 is damaged"):
        checkpoints.load(20)


def test_a_store_that_fails_is_no_reason_for_an_older_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(store, 1.0, 2.0).close()

    def fail(_: str) -> bytes:
        raise StoreError("no network")

    monkeypatch.setattr(store, "get", fail)
    with pytest.raises(StoreError, match="no network"):
        Checkpoints(store, PREFIX).load()


def test_a_damaged_blob_is_uploaded_anew(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    blob = blob_of(store, 20, "model")
    store.put(blob, b"rubbish")
    checkpoints = Checkpoints(store, PREFIX)
    assert value_of(checkpoints.load()) == 1.0
    checkpoints.save(state(2.0), step=20, epoch=2, metric=2.0)
    checkpoints.close()
    assert value_of(Checkpoints(store, PREFIX).load()) == 2.0


def test_a_damaged_checkpoint_does_not_push_a_whole_one_out(store: Store) -> None:
    saved(store, 1.0, 2.0, 3.0, keep_last=3, keep_best=0).close()
    store.put(blob_of(store, 30, "model"), b"rubbish")
    checkpoints = Checkpoints(store, PREFIX, keep_last=2, keep_best=0)
    assert value_of(checkpoints.load()) == 2.0
    checkpoints.save(state(2.5), step=25, epoch=3, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [20, 25, 30]


# Pruning


def test_the_last_and_the_best_stay(store: Store) -> None:
    assert steps(saved(store, 1.0, 9.0, 3.0, 8.0, 2.0, 1.0, keep_last=2, keep_best=2)) == [20, 40, 50, 60]
    assert len(store.keys(PREFIX)) == 4 + 4 + 1 + 1  # manifests, models, the frozen part, the part without tensors


def test_the_best_by_the_smallest(store: Store) -> None:
    checkpoints = saved(store, 3.0, 1.0, 2.0, 4.0, keep_last=1, mode="min")
    assert steps(checkpoints) == [20, 40]
    best = checkpoints.best()
    assert best is not None
    assert best.step == 20


def test_of_equal_metrics_the_newer_is_best(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX, keep_last=3)
    for step in (1, 2):
        checkpoints.save(state(float(step)), step=step, epoch=0, metric=0.5)
        checkpoints.wait()
    best = checkpoints.best()
    assert best is not None
    assert best.step == 2


@pytest.mark.parametrize("metric", [None, math.nan, math.inf])
def test_no_finite_metric_is_never_best(store: Store, metric: float | None) -> None:
    checkpoints = saved(store, 1.0)
    checkpoints.save(state(2.0), step=20, epoch=2, metric=metric)
    checkpoints.wait()
    best = checkpoints.best()
    assert best is not None
    assert best.step == 10
    assert repr(checkpoints.infos()[1].metric) == repr(metric)


def test_blobs_that_a_kept_checkpoint_shares_stay(store: Store) -> None:
    checkpoints = saved(store, 1.0, 2.0, 3.0, 4.0, keep_last=1, keep_best=0)
    assert steps(checkpoints) == [40]
    assert value_of(checkpoints.load()) == 4.0


def test_what_is_there_already_is_not_uploaded_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(store, 1.0)
    put: list[str] = []
    monkeypatch.setattr(store, "put", lambda key, _: put.append(key))
    checkpoints.save(state(1.0), step=20, epoch=2, metric=1.0)
    checkpoints.wait()
    assert put == []
    assert steps(checkpoints) == [10, 20]


def test_a_blob_of_another_process_without_its_manifest_yet_is_not_pruned(store: Store) -> None:
    checkpoints = saved(store, 1.0, keep_last=1, keep_best=0)
    store.put(f"{PREFIX}blobs/other.safetensors", b"under way")
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [20]
    assert store.exists(f"{PREFIX}blobs/other.safetensors")


def test_nothing_is_pruned_before_the_new_one_is_committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(store, 1.0, keep_last=1, keep_best=0)
    there: list[bool] = []
    delete = store.delete

    def watched(key: str) -> None:
        there.append(bool(store.keys(f"{PREFIX}checkpoints/0000000020/")))
        delete(key)

    monkeypatch.setattr(store, "delete", watched)
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.close()
    assert there
    assert all(there)


def test_a_failed_pruning_does_not_fail_the_save(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> None:
        raise StoreError("may not delete")

    checkpoints = saved(store, 1.0, keep_last=1, keep_best=0)
    monkeypatch.setattr(store, "delete", fail)
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.close()
    assert value_of(checkpoints.load()) == 2.0
    assert "may not delete" in caplog.text


# The same step again


def test_the_same_step_with_the_same_state_is_saved_once(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    before = store.keys(PREFIX)
    checkpoints.save(state(1.0), step=10, epoch=1, metric=1.0)
    checkpoints.close()
    assert store.keys(PREFIX) == before


def test_the_same_step_with_another_state_counts_anew(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    checkpoints = Checkpoints(store, PREFIX)
    checkpoints.save(state(5.0), step=20, epoch=2, metric=0.5)
    checkpoints.close()
    assert value_of(checkpoints.load(20)) == 5.0
    assert [info.metric for info in checkpoints.infos()] == [1.0, 0.5]
    assert len(store.keys(f"{PREFIX}checkpoints/")) == 2  # the attempt before is pruned


def test_a_run_that_went_back_keeps_what_it_saves(store: Store) -> None:
    saved(store, 1.0, 2.0, 3.0, keep_last=1, keep_best=0).close()
    checkpoints = Checkpoints(store, PREFIX, keep_last=1, keep_best=0)
    checkpoints.save(state(1.5), step=15, epoch=1, metric=None)
    checkpoints.close()
    assert value_of(checkpoints.load(15)) == 1.5


def test_two_writers_of_one_step_both_end_with_a_whole_checkpoint(store: Store) -> None:
    writers = [Checkpoints(store, PREFIX) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.save(state(float(number)), step=1, epoch=0, metric=None)
    for writer in writers:
        writer.close()
    assert value_of(writers[0].load()) in (0.0, 1.0)


def test_a_checkpoint_that_is_pruned_while_it_is_read_leads_to_the_newer_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = saved(store, 1.0, keep_last=1, keep_best=0)
    reader = Checkpoints(store, PREFIX)
    get = store.get

    def pruned_meanwhile(key: str) -> bytes:
        monkeypatch.setattr(store, "get", get)
        writer.save(state(2.0), step=20, epoch=2, metric=None)
        writer.wait()
        return get(key)

    monkeypatch.setattr(store, "get", pruned_meanwhile)
    assert value_of(reader.load()) == 2.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_state_on_the_gpu_is_saved_as_it_was_at_save(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX)
    live = {"model": {"weight": torch.full((1000, 1000), 1.0, device="cuda")}}
    checkpoints.save(live, step=1, epoch=0, metric=None)
    live["model"]["weight"].fill_(9.0)  # queued behind the copy, on the same stream
    checkpoints.close()
    assert torch.equal(checkpoints.load_parts(["model"])["model"]["weight"], torch.full((1000, 1000), 1.0))

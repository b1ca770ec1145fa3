import math
from collections.abc import Mapping
from uuid import uuid4

import pytest
import torch

from tests.trainers.checkpoints.saves import (
    PREFIX,
    SlowStore,
    WrappedStore,
    blobs,
    manifest_of,
    saved,
    state,
    steps,
    value_of,
)
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.manifest import RunFacts
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.stores.store import Store, open_store


def test_what_was_saved_is_loaded(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    loaded = Checkpoints(store, PREFIX).load()
    assert value_of(loaded) == 2.0
    assert loaded is not None
    assert (loaded[0].step, loaded[0].epoch, loaded[0].metric) == (20, 2, 2.0)
    assert loaded[0].uri.startswith(f"{store.uri}/{PREFIX}checkpoints/0000000020/manifest-")
    assert loaded[1]["progress"]["order"] == (1, 2)


@pytest.mark.s3
def test_the_same_in_s3(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    store = open_store(f"s3://tests/{uuid4().hex}")
    checkpoints = saved(store, 1.0, 2.0, 3.0, 4.0, keep_last=1, mode="min")
    assert steps(checkpoints) == [10, 40]
    assert value_of(checkpoints.load()) == 4.0
    assert value_of(checkpoints.load(10)) == 1.0
    assert len(blobs(store)) == 3, "two models, and what they share"


def test_nothing_saved_is_none(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX)
    assert checkpoints.load() is None
    assert checkpoints.best() is None
    assert checkpoints.infos() == []


def test_every_kind_of_tensor_comes_back_as_it_was(store: Store) -> None:
    tree = {
        "z": torch.tensor([True, False, True]),
        "bf16": torch.randn(3).bfloat16(),
        "wide": torch.randn(5, dtype=torch.float64),
        "nhwc": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "large": torch.randn(1, 700, 500, 3).to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 3),
        "turned": torch.randn(2, 3).T,
        "one": torch.tensor(1e-9),
        "complex": torch.randn(3, dtype=torch.complex64),
    }
    checkpoints = Checkpoints(store, PREFIX)
    checkpoints.save({"model": tree}, step=1, epoch=0, metric=None)
    checkpoints.close()
    read: Mapping[str, torch.Tensor] = checkpoints.load_parts(["model"])["model"]
    assert {name: (t.dtype, t.shape) for name, t in read.items()} == {n: (t.dtype, t.shape) for n, t in tree.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in tree.items())
    assert read["nhwc"].is_contiguous(memory_format=torch.channels_last)
    read["one"].add_(1.0)  # it can be trained on


def test_a_manifest_says_what_made_it(store: Store) -> None:
    facts = RunFacts(world_size=2, git_commit="c0ffee", git_dirty=True, data_fingerprint="d1")
    checkpoints = saved(store, 1.0, facts=facts)
    assert manifest_of(store, 10).facts == facts
    assert checkpoints.infos()[0].world_size == 2


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


def test_parts_are_read_alone(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    read: list[str] = []
    watched = Checkpoints(WrappedStore(store, lambda call, key: read.append(key) if "blobs" in key else None), PREFIX)
    assert list(watched.load_parts(["model"])) == ["model"]
    assert len(read) == 1
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


def test_what_is_there_already_is_not_uploaded_again(store: Store) -> None:
    put: list[str] = []
    watched = WrappedStore(store, lambda call, key: put.append(key) if call == "put" and "/blobs/" in key else None)
    checkpoints = saved(watched, 1.0)
    assert len(put) == 2
    put.clear()
    checkpoints.save(state(1.0), step=20, epoch=2, metric=1.0)
    checkpoints.save(state(2.0), step=30, epoch=2, metric=1.0)
    checkpoints.close()
    assert len(put) == 1, "the model of step 30, and not what it shares with the others"


def test_a_save_that_failed_leaves_its_blobs_to_the_next(store: Store) -> None:
    def fail(call: str, key: str) -> None:
        if call == "create":
            raise StoreError("no network")

    checkpoints = Checkpoints(WrappedStore(store, fail), PREFIX)
    checkpoints.save(state(1.0), step=10, epoch=1, metric=None)
    with pytest.raises(StoreError, match="no network"):
        checkpoints.close()
    put: list[str] = []
    watched = WrappedStore(store, lambda call, key: put.append(key) if call == "put" and "/blobs/" in key else None)
    assert steps(saved(watched, 1.0)) == [10]
    assert put == []


def test_equal_blobs_of_one_state_travel_once(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX)
    large = torch.ones(2**19)
    checkpoints.save({"model": large, "average": large.clone()}, step=1, epoch=0, metric=None)
    checkpoints.close()
    assert len(blobs(store)) == 1
    assert checkpoints.pending_bytes == 0
    assert torch.equal(checkpoints.load_parts(["average"])["average"], large)


@pytest.mark.parametrize("metric", [None, math.nan, math.inf])
def test_no_finite_metric_is_never_best(store: Store, metric: float | None) -> None:
    checkpoints = saved(store, 1.0)
    checkpoints.save(state(2.0), step=20, epoch=2, metric=metric)
    checkpoints.wait()
    best = checkpoints.best()
    assert best is not None
    assert best.step == 10
    assert repr(checkpoints.infos()[1].metric) == repr(metric)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_state_on_the_gpu_is_saved_as_it_was_at_save(store: Store) -> None:
    checkpoints = Checkpoints(store, PREFIX)
    live = {"model": {"weight": torch.full((1000, 1000), 1.0, device="cuda")}}
    for value in (1.0, 2.0):
        live["model"]["weight"].fill_(value)
        checkpoints.save(live, step=int(value), epoch=0, metric=None)
        live["model"]["weight"].fill_(9.0)  # queued behind the copy
        checkpoints.wait()
    checkpoints.close()
    assert torch.equal(checkpoints.load_parts(["model"], step=1)["model"]["weight"], torch.full((1000, 1000), 1.0))
    assert torch.equal(checkpoints.load_parts(["model"], step=2)["model"]["weight"], torch.full((1000, 1000), 2.0))

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.trainers.checkpoints.memory_store import MemoryStore, Turns
from tests.trainers.checkpoints.saves import PREFIX, NumberedFence, WrappedStore, blobs, saved, state, steps, value_of
from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.collector import Collected, Collector, collecting
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.stores.store import Store

SWEEP = "exp/sweep/"
A, B = f"{SWEEP}a/", f"{SWEEP}b/"


def save(store: Store, prefix: str, value: float, step: int = 1) -> Checkpoints:
    """One run of a sweep saves one checkpoint of a single blob."""
    checkpoints = Checkpoints(store, prefix, SWEEP, keep_last=1, keep_best=0)
    checkpoints.save({"model": torch.full((4,), value)}, step=step, epoch=0, metric=None)
    checkpoints.close()
    return checkpoints


def loaded(store: Store, prefix: str) -> float:
    """The value that a run's newest checkpoint holds; an error where it is not whole."""
    return float(Checkpoints(store, prefix, SWEEP).load_parts(["model"])["model"][0])


# What goes and what stays


def test_blobs_that_no_run_names_go(store: Store) -> None:
    save(store, A, 1.0)
    save(store, B, 1.0)
    save(store, A, 2.0, step=2)
    assert Collector(store, SWEEP).collect() == Collected(0, 0), "b still names the first"
    save(store, B, 2.0, step=2)
    assert Collector(store, SWEEP).preview() == Collected(1, 64)
    assert Collector(store, SWEEP).collect(measure=True) == Collected(1, 64)
    assert (loaded(store, A), loaded(store, B)) == (2.0, 2.0)
    assert len(blobs(store, SWEEP)) == 1
    assert store.keys(f"{SWEEP}condemned/") == store.keys(f"{SWEEP}pending/") == []


def test_runs_of_a_sweep_upload_what_they_share_once(store: Store) -> None:
    save(store, A, 1.0)
    put: list[str] = []
    save(WrappedStore(store, lambda call, key: put.append(key) if call == "put" and "blobs/" in key else None), B, 1.0)
    assert put == []
    assert loaded(store, B) == 1.0


def test_what_a_save_under_way_has_announced_stays(store: Store) -> None:
    save(store, A, 1.0)
    digest = blobs(store, SWEEP)[0][-64:]
    pending = Blobs(store, SWEEP).announce("b/", 1, 5, [digest])
    save(store, A, 2.0, step=2)
    assert Collector(store, SWEEP).collect().blobs == 0
    store.delete(pending.key)
    assert Collector(store, SWEEP).collect().blobs == 1


def test_what_a_replaced_attempt_had_announced_goes(store: Store) -> None:
    checkpoints = saved(store, 1.0, keep_last=1, keep_best=0, fence=NumberedFence(2, {2: 5}))
    store.put(f"{PREFIX}blobs/aa/{'a' * 64}", b"its writer was killed")
    Blobs(store, PREFIX).announce("", 1, 8, ["a" * 64])
    checkpoints.save(state(2.0), step=20, epoch=2, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [20]
    assert store.keys(f"{PREFIX}pending/") == []
    assert len(blobs(store)) == 2


def test_by_force_what_was_announced_goes_too(store: Store) -> None:
    def fail(call: str, _: str) -> None:
        if call == "create":
            raise StoreError("the process ends here")

    saved(store, 1.0).close()
    whole = blobs(store)
    killed = Checkpoints(WrappedStore(store, fail), PREFIX)
    killed.save(state(2.0), step=20, epoch=2, metric=2.0)
    with pytest.raises(StoreError, match="ends here"):
        killed.wait()
    checkpoints = Checkpoints(store, PREFIX)
    assert checkpoints.sweep() == 0
    assert checkpoints.sweep(force=True) == 1
    assert blobs(store) == whole
    assert value_of(checkpoints.load()) == 1.0


def test_a_condemned_blob_is_uploaded_under_another_name(store: Store) -> None:
    save(store, A, 1.0)
    (old,) = blobs(store, SWEEP)
    condemned = Blobs(store, SWEEP).condemn([old[-64:]])  # by a collector that ended before it deleted anything
    save(store, B, 1.0)
    (new,) = set(blobs(store, SWEEP)) - {old}
    store.delete(old)
    assert loaded(store, B) == 1.0
    save(store, B, 1.0, step=2)
    assert blobs(store, SWEEP) == [new], "the new name is used again"
    store.delete(condemned)


def test_a_list_that_cannot_be_read_stops_the_collection(store: Store) -> None:
    save(store, A, 1.0)
    save(store, A, 2.0, step=2)
    store.put(f"{SWEEP}pending/x.json", b"{")
    with pytest.raises(CheckpointError, match=r"pending/x\.json cannot be read"):
        Collector(store, SWEEP).collect()
    assert len(blobs(store, SWEEP)) == 2


def test_what_a_damaged_manifest_names_stays(store: Store) -> None:
    save(store, A, 1.0)
    (key,) = store.keys(f"{A}checkpoints/")
    store.put(key, store.get(key)[:-10])
    assert Collector(store, SWEEP).collect().blobs == 0


def test_it_collects_in_a_thread_and_at_the_end(store: Store) -> None:
    save(store, A, 1.0)
    with collecting(Collector(store, SWEEP), every_s=0.01):
        save(store, A, 2.0, step=2)
        deadline = time.monotonic() + 30
        while len(blobs(store, SWEEP)) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with collecting(Collector(store, SWEEP)):
        save(store, A, 3.0, step=3)
    assert len(blobs(store, SWEEP)) == 1


# In every order


def schedules(writer_calls: int, collector_calls: int) -> Iterator[list[str]]:
    """Every order of the calls of a writer and a collector in which each is interrupted at most twice."""
    for first in range(writer_calls + 1):
        for second in range(1, collector_calls + 1):
            for third in range(writer_calls - first + 1):
                for fourth in range(collector_calls - second + 1):
                    yield ["w"] * first + ["c"] * second + ["w"] * third + ["c"] * fourth + ["w"] * writer_calls


def in_turns(content: dict[str, bytes], order: list[str], write: Callable[[Store], object]) -> Turns:
    """`write` and a collection, each in a thread, their calls in this order."""
    turns = Turns(order)

    def run(side: str, work: Callable[[Store], object]) -> None:
        try:
            work(MemoryStore(content, turns, side))
        finally:
            turns.end(side)

    threads = [
        threading.Thread(target=run, args=("w", write)),
        threading.Thread(target=run, args=("c", lambda store: Collector(store, SWEEP).collect())),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return turns


@pytest.mark.parametrize("prefix", [A, B])
def test_no_order_of_calls_takes_a_blob_from_a_manifest(prefix: str) -> None:
    garbage: dict[str, bytes] = {}
    save(MemoryStore(garbage), A, 1.0)
    garbage = {key: data for key, data in garbage.items() if "/blobs/" in key}  # all that named it was pruned
    calls = in_turns(dict(garbage), [], lambda store: save(store, prefix, 1.0)).calls
    orders = list(schedules(calls["w"], calls["c"]))
    for order in random.Random(0).sample(orders, min(len(orders), 400)):
        content = dict(garbage)
        in_turns(content, order, lambda store: save(store, prefix, 1.0))
        assert loaded(MemoryStore(content), prefix) == 1.0, order
        Collector(MemoryStore(content), SWEEP).collect()
        assert loaded(MemoryStore(content), prefix) == 1.0, order
        assert len(blobs(MemoryStore(content), SWEEP)) == 1, order


def test_while_runs_save_and_collectors_collect_every_committed_checkpoint_is_whole() -> None:
    content: dict[str, bytes] = {}
    turns = Turns()  # one call at a time; the machine says whose
    ended = threading.Event()
    faults: list[BaseException] = []
    saves: list[str] = []

    def write(number: int) -> None:
        draw, prefix = random.Random(number), f"{SWEEP}{number}/"
        store = MemoryStore(content, turns)
        checkpoints = Checkpoints(store, prefix, SWEEP, keep_last=1, keep_best=0)
        for step in range(10_000):
            if ended.is_set():
                break
            value = float(draw.randrange(3))  # so that runs need what others have just dropped
            checkpoints.save({"model": torch.full((4,), value)}, step=step, epoch=0, metric=None)
            checkpoints.wait()
            assert loaded(store, prefix) == value
            saves.append(prefix)
        checkpoints.close()

    def collect() -> None:
        while not ended.is_set():
            Collector(MemoryStore(content, turns), SWEEP).collect()

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as fault:  # noqa: BLE001  # raised below
            faults.append(fault)
            ended.set()

    works: list[Callable[[], None]] = [lambda number=number: write(number) for number in range(3)]  # type: ignore[misc]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in [*works, collect, collect]]
    for thread in threads:
        thread.start()
    ended.wait(1.5)
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(set(saves)) == 3

"""One driver at a time for a sweep: a second is refused, one that is gone is replaced, one that was replaced stops."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import PREFIX, SWEEP_ID, Heard, experiment_tree, make_project
from tuneyard.trainers.claims import Claims
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.errors import ConfigError, FencedError
from tuneyard.trainers.record import Metric
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.driver_lock import Patience, driving
from tuneyard.tune.index import IndexWriter
from tuneyard.tune.sweep import SweepRequest, run_sweep
from tuneyard.tune.trials import make_trial

QUICK = Patience(beat_s=0.05, watch_s=0.6)
DRIVERS = "e/s1/drivers/"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FileStore(tmp_path / "runs")


def held_by_another(store: Store, *marks: str, prefix: str = DRIVERS, **changes: Any) -> Claims:
    """A claim of some other process: this one's, with these fields changed."""
    claims = Claims(store, prefix)
    number = claims.take(claims.look())
    body = json.loads(store.get(claims.key(number))) | changes
    store.put(claims.key(number), json.dumps(body).encode())
    for mark in marks:
        claims.mark(number, mark)
    return claims


def elsewhere(store: Store, *marks: str) -> Claims:
    return held_by_another(store, *marks, host="far", machine="another")


def drive(store: Store) -> int:
    """Hold the sweep for a moment; the number."""
    with driving(store, "e/s1/", "sweep s1", QUICK) as lock:
        lock.check()
        return lock.number


def test_drivers_follow_each_other(store: Store) -> None:
    assert [drive(store) for _ in range(4)] == [1, 2, 3, 4]
    assert list(Claims(store, DRIVERS).look()) == [3, 4]


def test_a_driver_that_lives_on_this_machine_is_not_replaced(store: Store) -> None:
    with driving(store, "e/s1/", "sweep s1", QUICK):
        with pytest.raises(ConfigError, match=r"sweep s1 is being driven by process \d+ on .*\(kill \d+: its trials"):
            drive(store)
        assert list(Claims(store, DRIVERS).look()) == [1]


def test_one_that_was_killed_on_this_machine_is_replaced_at_once(store: Store) -> None:
    held_by_another(store, "beat", began=-7)
    began = time.monotonic()
    assert drive(store) == 2
    assert time.monotonic() - began < QUICK.watch_s


def test_one_elsewhere_that_shows_that_it_lives_is_not_replaced(store: Store) -> None:
    claims, ended = elsewhere(store, "beat"), threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(0.02):
            count += 1
            claims.mark(1, "beat", str(count).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"driven by process \d+ on far"):
            drive(store)
    finally:
        ended.set()
        thread.join()


def test_one_elsewhere_that_shows_nothing_is_replaced_after_a_while(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere(store, "beat")
    began = time.monotonic()
    assert drive(store) == 2
    assert time.monotonic() - began >= QUICK.watch_s
    assert "sweep s1 is held by process" in caplog.text


def test_one_elsewhere_that_has_done_is_replaced_at_once(store: Store) -> None:
    elsewhere(store, "beat", "done")
    began = time.monotonic()
    assert drive(store) == 2
    assert time.monotonic() - began < QUICK.watch_s


def test_a_driver_shows_that_it_lives(store: Store) -> None:
    with driving(store, "e/s1/", "sweep s1", QUICK):
        claims, seen = Claims(store, DRIVERS), set[bytes]()
        deadline = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
            if "beat" in claims.look()[1]:
                seen.add(claims.read_mark(1, "beat"))
        assert len(seen) == 3


def test_a_driver_that_was_replaced_hears_of_it_and_leaves_the_claim_alone(store: Store) -> None:
    with driving(store, "e/s1/", "sweep s1", QUICK) as lock:
        elsewhere(store)
        deadline = time.monotonic() + 30
        while not lock.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(FencedError, match="sweep s1 is driven by process"):
            lock.check()
    assert "done" not in Claims(store, DRIVERS).look()[1]


def test_a_driver_that_stood_still_looks_before_it_writes(store: Store) -> None:
    """As after SIGSTOP, or on a laptop that slept: no beat of its own was in time."""
    with driving(store, "e/s1/", "sweep s1", Patience(beat_s=3600.0, watch_s=1.0)) as lock:
        while not store.exists(f"{DRIVERS}000001-beat.json"):
            time.sleep(0.01)
        time.sleep(0.2)
        elsewhere(store)
        assert not lock.lost
        time.sleep(0.6)
        with pytest.raises(FencedError):
            lock.check()


def test_the_index_is_not_written_by_a_driver_that_was_replaced(store: Store) -> None:
    def check() -> None:
        raise FencedError("another drives")

    index = IndexWriter(store, "e/s1/", Metric(name="m", mode="max"), check)
    index.put(make_trial("0001", {}, validate(experiment_tree({}), where="sweeps.py")))
    with pytest.raises(FencedError):
        index.close()
    assert store.keys("e/s1/trials.json") == []


def test_a_second_sweep_is_refused_before_anything_is_written(tmp_path: Path, store: Store) -> None:
    make_project(tmp_path)
    base = TrialSpec(
        run_id=SWEEP_ID, experiment=validate(experiment_tree({}), where="sweeps.py"), project_dir=str(tmp_path),
        store_uri=store.uri, tracking_dir=str(tmp_path / "tracking"),
    )  # fmt: skip
    began = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    held_by_another(store, prefix=f"{PREFIX}drivers/", pid=1, began=began)
    before = store.keys("")
    with pytest.raises(ConfigError, match=f"sweep {SWEEP_ID} is being driven by process 1 on"):
        run_sweep(SweepRequest(base, SWEEP_ID, False, None, lambda: False), Heard())
    assert store.keys("") == before

"""The shared cache: one builder, room for what is new, damage, crashes, and what those who wait are told."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneyard.trainers.data.decoded_cache import Building, DecodedCache, Teller
from tuneyard.trainers.errors import DataError

Build = Callable[[Building], dict[str, Any]]
SIDE = 100  # an image has 10,000 bytes


def filled(count: int = 1, value: int = 7, calls: list[int] | None = None) -> Build:
    def build(entry: Building) -> dict[str, Any]:
        entry.images((count, SIDE, SIDE, 1))[:] = value
        if calls is not None:
            calls.append(value)
        return {"value": value}

    return build


def make(cache: DecodedCache, name: str, count: int = 1) -> np.ndarray:
    return cache.entry(name, f"{count} images", filled(count))[0]


def entries(root: Path) -> set[str]:
    return {path.name.removeprefix("images-") for path in root.iterdir()}


def age(root: Path, name: str, hours: float) -> None:
    when = time.time() - 3600 * hours
    os.utime(root / f"images-{name}" / "used", (when, when))


def test_an_entry_is_built_once_and_then_mapped(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        images, index = DecodedCache(tmp_path).entry("a", "3 images", filled(3, calls=calls))
        assert isinstance(images, np.memmap)
        assert (images.shape, int(images.min()), index) == ((3, SIDE, SIDE, 1), 7, {"value": 7})
        assert not images.flags.writeable
    assert calls == [7]
    assert {path.name for path in (tmp_path / "images-a").iterdir()} == {"images.npy", "index.json", "used"}
    assert entries(tmp_path) == {"a"}


def truncate(folder: Path) -> None:
    os.truncate(folder / "images.npy", 5000)


def lengthen(folder: Path) -> None:
    with (folder / "images.npy").open("ab") as file:
        file.write(b"0")


def change_index(folder: Path) -> None:
    index = folder / "index.json"
    index.write_text(index.read_text().replace("7", "8"))


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "damage", [truncate, lengthen, change_index, lose("index.json"), lose("images.npy"), lose("used")]
)
def test_a_damaged_entry_is_told_and_made_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(DecodedCache(tmp_path), "a")
    damage(tmp_path / "images-a")
    images, index = DecodedCache(tmp_path).entry("a", "1 image", filled(1, 9))
    assert (int(images.max()), index) == (9, {"value": 9})
    assert "images-a are damaged" in caplog.text
    assert entries(tmp_path) == {"a"}


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 35_000)
    for name, hours in (("old", 2.0), ("older", 3.0), ("new", 1.5)):
        make(cache, name)
        age(tmp_path, name, hours)
    make(cache, "another")
    assert entries(tmp_path) == {"old", "new", "another"}
    make(cache, "larger", 2)
    assert entries(tmp_path) == {"another", "larger"}


def test_opening_an_entry_is_using_it(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 25_000)
    for name, hours in (("used", 3.0), ("unused", 2.0)):
        make(cache, name)
        age(tmp_path, name, hours)
    make(cache, "used")
    make(cache, "another")
    assert entries(tmp_path) == {"used", "another"}


def test_what_is_in_use_stays_as_long_as_any_view_of_it(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 15_000)
    view = make(cache, "held")[0, 1:]
    with pytest.raises(
        DataError, match=r"allows 1\.5e-05 GB, of which 0\.01 GB are in use by runs that have not ended"
    ):
        make(cache, "another")
    assert entries(tmp_path) == {"held"}
    assert int(view.max()) == 7
    del view
    make(cache, "another")
    assert entries(tmp_path) == {"another"}


HOLD = """
import sys
from pathlib import Path
from tuneyard.trainers.data.decoded_cache import DecodedCache
images, _ = DecodedCache(Path(sys.argv[1])).entry("held", "1 image", None)
print("open", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_that_is_killed(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 15_000)
    make(cache, "held")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="in use"):
            make(cache, "another")
        process.kill()
    make(cache, "another")
    assert entries(tmp_path) == {"another"}


def test_an_entry_larger_than_the_budget_evicts_nothing(tmp_path: Path) -> None:
    make(DecodedCache(tmp_path), "a")
    cache = DecodedCache(tmp_path, 20_000_000)
    with pytest.raises(DataError, match=r"need 0\.03 GB .* allows 0\.02 GB\. Set data\.cache_gb to at least 0\.03 GB"):
        make(cache, "b", 3000)
    assert entries(tmp_path) == {"a"}


def test_what_others_are_building_counts(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, 15_000)

    def build(entry: Building) -> dict[str, Any]:
        entry.images((1, SIDE, SIDE, 1))
        with pytest.raises(DataError, match="in use"):
            make(cache, "second")
        return {}

    cache.entry("first", "1 image", build)
    assert entries(tmp_path) == {"first"}


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"1000 images need 0\.01 GB .* has no room for them: No space left on device"):
        make(DecodedCache(tmp_path), "a", 1000)
    assert entries(tmp_path) == set()


def test_the_disk_is_taken_before_anything_is_decoded(tmp_path: Path) -> None:
    def build(entry: Building) -> dict[str, Any]:
        entry.images((100, SIDE, SIDE, 1))
        assert entry.path.stat().st_blocks * 512 >= 1_000_000
        return {}

    DecodedCache(tmp_path).entry("a", "100 images", build)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(entry: Building) -> dict[str, Any]:
        entry.images((1, SIDE, SIDE, 1))
        raise DataError("2 images are damaged")

    with pytest.raises(DataError, match="2 images are damaged"):
        DecodedCache(tmp_path).entry("a", "1 image", build)
    assert entries(tmp_path) == set()


BUILD = """
import sys, time
from pathlib import Path
from tuneyard.trainers.data.decoded_cache import DecodedCache

def build(entry):
    images = entry.images((10, 100, 100, 1))
    entry.progress(4, 10)
    print("builds", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.02)
    images[:] = 7
    return {}

images, _ = DecodedCache(Path(sys.argv[1])).entry("a", "10 images", build)
print("has", int(images.min()), flush=True)
"""


def started(root: Path, end: Path) -> subprocess.Popen[str]:
    """A process that builds until the file `end` is there."""
    code = [sys.executable, "-c", BUILD, str(root), str(end)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds_and_the_other_is_told(tmp_path: Path) -> None:
    root, end = tmp_path / "cache", tmp_path / "end"
    with started(root, end) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "builds\n"
        with started(root, end) as second:
            assert second.stdout is not None
            assert second.stderr is not None
            told = second.stderr.readline()
            end.touch()
            assert second.stdout.read() == "has 7\n"
        assert first.stdout.read() == "has 7\n"
    assert told == f"waiting for another process that decodes 10 images into {root}/images-a (40 %)\n"
    assert entries(root) == {"a"}


def test_after_a_killed_build_the_next_one_begins_anew(tmp_path: Path) -> None:
    with started(tmp_path, tmp_path / "never") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "builds\n"
        os.kill(first.pid, signal.SIGKILL)
    assert entries(tmp_path) == {"a.part", "a.lock"}
    assert int(make(DecodedCache(tmp_path), "a", 10).min()) == 7
    assert entries(tmp_path) == {"a"}


def test_what_a_killed_build_left_goes_with_the_next_build_of_anything(tmp_path: Path) -> None:
    (tmp_path / "images-dead.part").mkdir()
    (tmp_path / "images-dead.part" / "images.npy").write_bytes(bytes(50_000))
    (tmp_path / "images-dead.lock").touch()
    (tmp_path / "images-other.gone").mkdir()
    make(DecodedCache(tmp_path, 15_000), "a")
    assert entries(tmp_path) == {"a"}


def test_threads_that_want_the_same_build_once(tmp_path: Path) -> None:
    calls: list[int] = []
    build = filled(calls=calls)
    threads = [
        threading.Thread(target=lambda: DecodedCache(tmp_path).entry("a", "1 image", build)) for _ in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [7]


def test_rows_that_are_dropped_leave_the_others_in_order(tmp_path: Path) -> None:
    def build(entry: Building) -> dict[str, Any]:
        entry.images((600, 2, 2, 1))[:] = (np.arange(600) % 251).reshape(-1, 1, 1, 1)
        entry.drop([0, 299, 599])
        return {}

    images, _ = DecodedCache(tmp_path).entry("a", "600 images", build)
    assert isinstance(images, np.memmap)
    np.testing.assert_array_equal(images[:, 1, 1, 0], np.delete(np.arange(600) % 251, [0, 299, 599]))
    assert (tmp_path / "images-a" / "images.npy").stat().st_size == images.offset + 597 * 4


def test_long_work_is_told_after_a_second_and_then_every_ten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    teller = Teller()
    for clock[0] in (100.0, 100.9, 101.1, 105.0, 111.0, 111.2, 120.0, 121.3):
        teller.say(f"at {clock[0]}")
    assert [record.message for record in caplog.records] == ["at 101.1", "at 111.2", "at 121.3"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_the_index_keeps_what_build_returned(tmp_path: Path) -> None:
    def build(entry: Building) -> dict[str, Any]:
        entry.images((1, 1, 1, 1))
        return {"failures": [[3, "the file is “empty”"]], "digest": "00"}

    cache = DecodedCache(tmp_path)
    assert cache.entry("a", "1 image", build)[1] == cache.entry("a", "1 image", filled())[1]
    assert json.loads(json.loads((tmp_path / "images-a" / "index.json").read_text())["index"])["digest"] == "00"

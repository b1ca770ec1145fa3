"""A copy while things go wrong: kills, several processes at once, changes in the bucket, faults on the way."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.trainers.data.bucket import Bucket, png
from tests.waiting import wait_until
from tuneyard.trainers.data import bringing, s3_fetch, s3_listing
from tuneyard.trainers.data.bringing import at_hand
from tuneyard.trainers.data.s3_address import S3Address, parse_address
from tuneyard.trainers.data.s3_listing import list_all
from tuneyard.trainers.errors import DataError, StoreError
from tuneyard.trainers.stores import s3_objects

pytestmark = pytest.mark.s3

BRING = """
import sys
from pathlib import Path
from tuneyard.trainers.data.bringing import at_hand
from tuneyard.trainers.config.data import DataConfig
with at_hand(DataConfig.model_validate_json(sys.argv[1])) as local:
    print(len(list(Path(local.folder).rglob("*.png"))))
"""


def started(bucket: Bucket) -> "subprocess.Popen[str]":
    """A process that brings the data, and says how many images there are."""
    code = [sys.executable, "-c", BRING, bucket.config().model_dump_json()]
    return subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def noise(count: int, side: int = 200) -> dict[str, bytes]:
    """Images of about side² bytes, of two classes."""
    return {f"{'ab'[number % 2]}/{number:02}.png": png(number, side) for number in range(count)}


def test_two_processes_at_once_bring_each_object_once(bucket: Bucket) -> None:
    bucket.put(noise(12))
    bucket.proxy.latency_s = 0.05
    processes = [started(bucket) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [output for output, _ in outputs] == ["12\n", "12\n"], outputs
    assert bucket.reads() == sorted(noise(12))


def test_who_waits_is_told_why_and_asks_nobody(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    bucket.put(noise(4))
    bucket.proxy.fail("hang", method="GET", key="png", times=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bucket.load)
        wait_until(lambda: bool(bucket.proxy.seen("GET", "png")))
        second = pool.submit(bucket.load)
        wait_until(lambda: "waiting for another process that brings" in caplog.text)
        bucket.proxy.heal()
        assert len(first.result().pool) == len(second.result().pool) == 4
    (told,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("waiting")]
    assert told.startswith(f"waiting for another process that brings {bucket.uri()} to {bucket.cache}/s3/tests-")
    assert told.endswith("%)")
    assert len(bucket.proxy.seen("GET", "list-type")) == 1


def test_after_a_kill_what_is_here_is_not_brought_again(bucket: Bucket) -> None:
    bucket.put(noise(10))
    bucket.proxy.bytes_per_s = 200_000
    with started(bucket) as process:
        wait_until(lambda: len(bucket.copied()) >= 4)
        os.kill(process.pid, signal.SIGKILL)
    bucket.proxy.bytes_per_s = None
    before = bucket.copied()
    assert 4 <= len(before) < 10
    assert not list(bucket.cache.glob("s3/*/whole"))
    with pytest.raises(DataError, match="as a whole"):
        bucket.load(download=False)
    time.sleep(0.3)  # what the killed process had asked for comes to its end
    bucket.reads()
    assert len(bucket.load().pool) == 10
    again = bucket.reads()
    assert set(again) == set(noise(10)) - set(before)
    assert len(again) == len(set(again))


def test_what_a_kill_left_altered_is_brought_again(bucket: Bucket) -> None:
    bucket.put(noise(4))
    bucket.load()
    bucket.reads()
    (whole,) = bucket.cache.glob("s3/*/whole")
    whole.unlink()
    # As after a power cut: the name, the length and the time are there, the bytes are not.
    (file,) = bucket.cache.glob("s3/*/files/a/00.png")
    facts = file.stat()
    file.write_bytes(bytes(facts.st_size))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    bucket.load()
    assert bucket.reads() == ["a/00.png"]


def test_of_a_large_object_only_the_missing_pieces_are_brought(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_fetch, "PIECE_BYTES", 65536)
    files = {"a/large.png": png(1, 900), "b/small.png": png(2)}
    bucket.put(files)
    pieces = -(-len(files["a/large.png"]) // 65536)
    with monkeypatch.context() as patch:
        patch.setattr(s3_fetch._Pieces, "write", ending_after(5, s3_fetch._Pieces.write))
        with pytest.raises(KeyboardInterrupt):
            bucket.load()
    bucket.reads()
    (notes,) = bucket.cache.glob("s3/*/scratch/*.have")
    had = notes.stat().st_size // 9
    assert had >= 5
    with notes.open("a") as file:
        file.write("0000")  # as a kill leaves it
    assert bucket.load().pool.labels.tolist() == [0, 1]
    assert bucket.reads().count("a/large.png") == pieces - had < pieces
    (large,) = bucket.cache.glob("s3/*/files/a/large.png")
    assert large.read_bytes() == files["a/large.png"]
    assert not list(bucket.cache.glob("s3/*/scratch/*"))


def ending_after(calls: int, real: Callable[..., None]) -> Callable[..., None]:
    left = iter(range(calls))

    def call(*given: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(*given)

    return call


def test_a_link_that_goes_away_leaves_what_was_brought(bucket: Bucket) -> None:
    bucket.put(noise(3))
    bucket.proxy.fail("status", method="GET", key=r"02\.png", times=9)
    with pytest.raises(StoreError, match=r"gave up.*What was brought stays: the next start goes on from there\."):
        bucket.load(deadline_s=0.5)
    assert bucket.copied() == ["a/00.png", "b/01.png"]
    bucket.proxy.heal()
    bucket.reads()
    bucket.load()
    assert bucket.reads() == ["a/02.png"]


def test_a_piece_that_was_altered_is_found_out_in_the_end(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_fetch, "PIECE_BYTES", 65536)
    bucket.put({"a/large.png": png(1, 500), "b/small.png": png(2)})
    bucket.proxy.fail("alter-download", method="GET", key="large")
    bucket.load()
    (file,) = bucket.cache.glob("s3/*/files/a/large.png")
    assert file.read_bytes() == png(1, 500)
    bucket.put({"a/large.png": png(3, 500)})
    bucket.proxy.fail("alter-download", method="GET", key="large", times=99)
    with pytest.raises(StoreError, match="what arrived, 3 times, is not what lies in the bucket"):
        bucket.load()


def test_an_object_replaced_meanwhile_is_listed_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put({"a/1.png": png(1), "a/2.png": png(2), "b/1.png": png(3)})
    looked: list[int] = []
    choose = bringing._images

    def replacing(*given: object) -> Sequence[str]:
        looked.append(1)
        if len(looked) == 1:
            bucket.put({"a/2.png": png(8)})
            bucket.remove("b/1.png")
            bucket.put({"b/2.png": png(9)})
        return choose(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(bringing, "_images", replacing)
    assert bucket.load().pool.images[:, 0, 0, 0].tolist() == [1, 8, 9]
    assert bucket.copied() == ["a/1.png", "a/2.png", "b/2.png"]


def test_a_bucket_that_never_rests_is_told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put({"a/1.png": png(1), "b/1.png": png(2)})
    choose, values = bringing._images, iter(range(3, 9))

    def replacing(*given: object) -> Sequence[str]:
        bucket.put({"a/1.png": png(next(values))})
        return choose(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(bringing, "_images", replacing)
    with pytest.raises(DataError, match=r"changes while it is brought: .*Wait until it is complete"):
        bucket.load()


def test_nothing_changes_under_who_reads(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    bucket.put({"a/1.png": png(1), "b/1.png": png(2)})
    with ThreadPoolExecutor(1) as pool:
        with at_hand(bucket.config()):
            bucket.put({"a/2.png": png(3)})
            bucket.remove("a/1.png")
            update = pool.submit(bucket.load)
            wait_until(lambda: "waiting for processes that read" in caplog.text)
            assert bucket.copied() == ["a/1.png", "b/1.png"]
        assert update.result().pool.images[:, 0, 0, 0].tolist() == [3, 2]
    assert bucket.copied() == ["a/2.png", "b/1.png"]


def test_an_unchanged_copy_is_shared_at_once(bucket: Bucket) -> None:
    bucket.put({"a/1.png": png(1), "b/1.png": png(2)})
    with at_hand(bucket.config()), at_hand(bucket.config()) as local:
        assert Path(local.folder).is_dir()


def test_progress_says_bytes_objects_rate_and_time(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    bucket.put(noise(4, 500))
    bucket.proxy.bytes_per_s = 500_000
    bucket.load()
    line = next(record.getMessage() for record in caplog.records if " MB/s" in record.getMessage())
    assert re.fullmatch(
        rf"bringing {bucket.uri()}: \d+\.\d\d kB of 1\.00 MB, \d of 4 objects, \d\.\d MB/s, 0:00:0\d left", line
    )
    assert "done, 1.00 MB and 4 objects in 0:00:0" in caplog.records[-1].getMessage()


def test_a_long_listing_is_made_in_ranges_and_misses_nothing(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "_PAGE", 4)
    monkeypatch.setattr(s3_listing, "RANGES", 3)
    names = [f"{part}/{kind}/{number}.png" for part in ("test", "train") for kind in "abcde" for number in range(5)]
    bucket.put(dict.fromkeys(["0.txt", "train/z.txt", "z.txt", *names], png(1)))
    found = list_all(bringing._objects(bucket.config(), at(bucket)), f"{bucket.prefix}/", lambda _: None)
    assert sorted(one.key for one in found) == sorted(
        f"{bucket.prefix}/{name}" for name in ("0.txt", "train/z.txt", "z.txt", *names)
    )
    after = [one.target for one in bucket.proxy.seen("GET", "start-after")]
    assert len(after) >= 3


def at(bucket: Bucket) -> S3Address:
    address = parse_address(bucket.uri())
    assert address is not None
    return address

"""The contract of a store, on every implementation, and what is particular to each."""

import os
import signal
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import ConfigError, MissingKeyError, StoreError
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    server: SeaweedServer = request.getfixturevalue("s3_server")
    return open_store(f"s3://tests/{uuid4().hex}", S3Options(endpoint_url=server.endpoint_url))


def test_what_was_put_is_got(store: Store) -> None:
    store.put("a/b", b"one")
    store.put("a/b", memoryview(b"two"))
    assert store.get("a/b") == b"two"


@pytest.mark.parametrize("data", [b"", bytearray(b"ab"), memoryview(bytes(3_000_000))], ids=["empty", "array", "view"])
def test_bytes_of_every_kind(store: Store, data: bytes | bytearray | memoryview) -> None:
    store.put("k", data)
    assert store.get("k") == bytes(data)


def test_a_missing_key_is_named(store: Store) -> None:
    with pytest.raises(MissingKeyError, match=f"{store.uri}/a/b"):
        store.get("a/b")


def test_exists(store: Store) -> None:
    store.put("a/b", b"")
    assert store.exists("a/b")
    assert not store.exists("a")
    assert not store.exists("a/c")


def test_a_part_is_read_into_its_place(store: Store) -> None:
    store.put("a/b", bytes(range(100)))
    out = bytearray(b"x" * 50)
    store.read_into("a/b", 30, memoryview(out)[10:40])
    assert out == b"x" * 10 + bytes(range(30, 60)) + b"x" * 10


def test_all_is_read_into_memory_of_another_kind(store: Store) -> None:
    store.put("k", bytes(range(200)) * 4)
    out = array("q", bytes(800))
    store.read_into("k", 0, memoryview(out))
    assert out.tobytes() == bytes(range(200)) * 4


@pytest.mark.parametrize("start", [95, 200], ids=["in-the-middle", "past-the-end"])
def test_an_object_that_ends_too_early_is_told(store: Store, start: int) -> None:
    store.put("a/b", bytes(100))
    with pytest.raises(StoreError, match=rf"{store.uri}/a/b: it ends before byte {start + 10}") as caught:
        store.read_into("a/b", start, memoryview(bytearray(10)))
    assert not isinstance(caught.value, MissingKeyError)


@pytest.mark.parametrize("length", [0, 10])
def test_a_part_of_nothing_is_a_missing_key(store: Store, length: int) -> None:
    store.put("a/b", b"1")
    for key in ("a/c", "a", "a/b/c"):
        with pytest.raises(MissingKeyError, match=f"{store.uri}/{key}: there is nothing"):
            store.read_into(key, 0, memoryview(bytearray(length)))


def test_size(store: Store) -> None:
    store.put("a/b", bytes(1234))
    assert store.size("a/b") == 1234
    for key in ("a/c", "a", "a/b/c"):
        with pytest.raises(MissingKeyError, match=f"{store.uri}/{key}: there is nothing"):
            store.size(key)


def test_a_digest_that_the_caller_knows(store: Store) -> None:
    data = b"some bytes"
    store.put("put", data, sha256=sha256(data).digest())
    assert store.create("create", data, sha256=sha256(data).digest())
    assert store.get("put") == store.get("create") == data
    with pytest.raises(ValueError, match="32 bytes, and this one 64"):
        store.put("put", data, sha256=sha256(data).hexdigest().encode())


def test_keys_are_sorted_and_start_with_the_prefix(store: Store) -> None:
    for key in ("b", "a/x", "a/b/c", "a-1", "ab"):
        store.put(key, b"")
    assert store.keys("") == ["a-1", "a/b/c", "a/x", "ab", "b"]
    assert store.keys("a/") == ["a/b/c", "a/x"]
    assert store.keys("a") == ["a-1", "a/b/c", "a/x", "ab"]
    assert store.keys("a/b/") == ["a/b/c"]
    assert store.keys("nothing/") == []


def test_delete(store: Store) -> None:
    store.put("a/b", b"")
    store.delete("a/b")
    store.delete("a/b")
    assert store.keys("") == []


def test_create_does_not_replace(store: Store) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.get("a/b") == b"first"


def test_of_sixteen_writers_one_creates(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: store.create("key", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert store.get("key") == b"%d" % won.index(True)
    assert store.keys("") == ["key"]


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "ä", "a\\b", "a\nb", "x/.tmp-1"])
def test_a_key_that_cannot_be_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be a key"):
        store.put(key, b"")


def test_check_leaves_nothing(store: Store) -> None:
    store.check()
    assert store.keys("") == []


# Addresses


def test_a_plain_folder_is_a_store(tmp_path: Path) -> None:
    assert open_store(str(tmp_path / "my runs")).uri == f"file://{tmp_path}/my%20runs"


def test_a_file_uri_is_decoded(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/my%20runs").put("k", b"")
    assert (tmp_path / "my runs" / "k").exists()


@pytest.mark.parametrize("uri", ["runs", "gs://bucket/x", "file://host/x", "", "s3:///x"])
def test_an_unknown_address_says_what_is_allowed(uri: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("s3://key:hunter2@bucket/x", None),
        ("ftp://me:hunter2@host/x", None),
        ("s3://bucket/x", "http://me:hunter2@host:1"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(uri: str, endpoint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri, S3Options(endpoint_url=endpoint))
    assert "hunter2" not in str(caught.value)


# Folders


def test_unfinished_writes_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    assert open_store(str(tmp_path)).keys("") == []


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a/k", b"1")
    store.create("a/k", b"2")
    store.create("a/l", b"3")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["k", "l"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/store: could not write .* is a file and not a folder"):
        open_store(str(tmp_path / "file" / "store")).check()


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"the disk is full: .*keep_last"):
        open_store(str(tmp_path)).put("k", b"1")
    assert list(tmp_path.iterdir()) == []


WRITER = """
import itertools, sys
from tuneyard.trainers.stores.store import open_store
store = open_store(sys.argv[1])
for number in itertools.count():
    store.put("key", bytes([number % 256]) * 8_000_000)
    print(number, flush=True)
"""


def test_values_are_whole_while_another_process_writes_and_after_it_is_killed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"0\n"
        seen = [store.get("key") for _ in range(60)]
        writer.send_signal(signal.SIGKILL)
    seen.append(store.get("key"))
    assert all(len(value) == 8_000_000 and value == value[:1] * 8_000_000 for value in seen)
    assert len({value[:1] for value in seen}) > 1  # it did write meanwhile
    assert store.keys("") == ["key"]

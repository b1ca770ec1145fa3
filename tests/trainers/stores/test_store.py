"""The contract of a store, on every implementation, and what is particular to each."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import ConfigError, MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store, open_store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    server: SeaweedServer = request.getfixturevalue("s3_server")
    return open_store(f"s3://tests/{uuid4().hex}", endpoint_url=server.endpoint_url)


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
        open_store(uri, endpoint_url=endpoint)
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


# S3


@pytest.mark.s3
def test_a_large_object_goes_up_in_pieces_and_comes_back(s3_server: SeaweedServer) -> None:
    store = open_store(f"s3://tests/{uuid4().hex}", endpoint_url=s3_server.endpoint_url)
    data = os.urandom(1_000_003) * 70  # above 64 MiB, and no multiple of a piece
    store.put("large", memoryview(data))
    assert store.get("large") == data


@pytest.mark.s3
def test_more_keys_than_one_page_of_a_listing(s3_server: SeaweedServer) -> None:
    store = open_store(f"s3://tests/{uuid4().hex}", endpoint_url=s3_server.endpoint_url)
    names = [f"k/{number:04d}" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert store.keys("k/") == names


@pytest.mark.s3
def test_a_missing_bucket_says_how_to_make_it(s3_server: SeaweedServer) -> None:
    store = open_store("s3://nobody-made-me/x", endpoint_url=s3_server.endpoint_url)
    with pytest.raises(StoreError) as caught:
        store.check()
    assert f"aws s3 mb s3://nobody-made-me --endpoint-url {s3_server.endpoint_url}" in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_and_not_shown(
    s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hunter2-hunter2")
    with pytest.raises(StoreError, match=r"credentials are wrong.*AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://tests/x", endpoint_url=s3_server.endpoint_url).check()
    assert "hunter2" not in str(caught.value)
    assert s3_server.secret_key not in str(caught.value)


def test_no_credentials_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match=r"no complete credentials.*AWS_PROFILE"):
        open_store("s3://tests/x", endpoint_url="http://127.0.0.1:1").check()


def test_an_unknown_profile_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="nobody"):
        open_store("s3://tests/x")


def test_a_dead_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreError, match=rf"{endpoint}.*cannot be reached.*checkpoint\.endpoint_url"):
            open_store("s3://tests/x", endpoint_url=endpoint).check()

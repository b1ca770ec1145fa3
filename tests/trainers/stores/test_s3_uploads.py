"""Large objects go up in parts, without a copy, and nothing unfinished is left behind."""

import os
import subprocess
import sys
import time
import tracemalloc
from uuid import uuid4

import boto3
import pytest

from tests.s3_proxy import S3Proxy
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores import s3_upload
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.s3_upload import cut
from tuneyard.trainers.stores.store import Store, open_store

pytestmark = pytest.mark.s3

MEBIBYTE = 2**20


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Two parts, as small as a server takes them (5 MiB), so that the tests are quick."""
    monkeypatch.setattr(s3_upload, "_PART_BYTES", 6 * MEBIBYTE)
    return os.urandom(MEBIBYTE + 1) * 10


def open_through(proxy: S3Proxy, *, deadline_s: float = 60.0) -> Store:
    options = S3Options(endpoint_url=proxy.endpoint_url, deadline_s=deadline_s)
    return open_store(f"s3://tests/{uuid4().hex}", options)


def unfinished(server: SeaweedServer, store: Store) -> list[str]:
    client = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
    uploads = client.list_multipart_uploads(Bucket="tests").get("Uploads", [])
    return [one["Key"] for one in uploads if f"s3://tests/{one['Key']}".startswith(store.uri)]


def test_a_large_object_goes_up_in_parts_with_a_digest_each(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    large = os.urandom(MEBIBYTE + 1) * 40
    store.put("k", memoryview(large))
    parts = proxy.seen("PUT", "partNumber=")
    assert len(parts) == 3
    assert all(8 * MEBIBYTE <= part.sent <= 16 * MEBIBYTE for part in parts)
    assert all(part.headers["x-amz-checksum-sha256"] for part in parts)
    assert store.size("k") == len(large)
    assert store.get("k") == large


def test_a_large_object_is_created_once(s3_server: SeaweedServer, proxy: S3Proxy, large: bytes) -> None:
    store = open_through(proxy)
    assert store.create("k", large)
    assert not store.create("k", large[::-1])
    assert unfinished(s3_server, store) == []
    assert store.get("k") == large


@pytest.mark.parametrize("kind", ["status", "reset-upload", "alter-upload", "drop-answer"])
def test_a_part_that_fails_is_sent_again(proxy: S3Proxy, large: bytes, kind: str) -> None:
    store = open_through(proxy)
    proxy.fail(kind, key="partNumber=2")  # type: ignore[arg-type]
    store.put("k", large)
    assert store.get("k") == large
    assert len(proxy.seen("PUT", "partNumber=2")) == 2
    assert len(proxy.seen("PUT", "partNumber=1")) == 1


@pytest.mark.parametrize(("method", "key"), [("PUT", "partNumber=2"), ("POST", "uploadId=")], ids=["part", "complete"])
def test_an_upload_that_fails_is_aborted(
    s3_server: SeaweedServer, proxy: S3Proxy, large: bytes, method: str, key: str
) -> None:
    store = open_through(proxy, deadline_s=0.3)
    proxy.fail("status", method=method, key=key, times=1000)
    with pytest.raises(StoreError, match="gave up after"):
        store.put("k", large)
    assert unfinished(s3_server, store) == []
    assert store.keys("") == []


def test_an_upload_that_is_interrupted_is_aborted(
    s3_server: SeaweedServer, proxy: S3Proxy, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(s3_upload, "as_completed", interrupt)
    store = open_through(proxy)
    with pytest.raises(KeyboardInterrupt):
        store.put("k", large)
    assert len(proxy.seen("POST", "uploads")) == 1
    assert unfinished(s3_server, store) == []


ENDS_IN_THE_MIDDLE = """
import sys, threading
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import open_store
store = open_store(sys.argv[1], S3Options(endpoint_url=sys.argv[2], deadline_s=5))
threading.Thread(target=store.put, args=("k", bytes(17_000_000)), daemon=True).start()
sys.stdin.readline()
"""


def test_an_upload_that_the_end_of_the_program_cuts_off_is_aborted(s3_server: SeaweedServer, proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("hang", method="POST", key="uploadId=", times=1000)
    command = [sys.executable, "-c", ENDS_IN_THE_MIDDLE, store.uri, proxy.endpoint_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        while not proxy.seen("POST", "uploadId="):
            assert program.poll() is None
            time.sleep(0.02)
        assert len(unfinished(s3_server, store)) == 1
        assert program.stdin is not None
        program.stdin.close()
    assert unfinished(s3_server, store) == []


@pytest.mark.parametrize("only_new", [False, True])
def test_an_upload_that_the_server_forgot_is_begun_again(
    s3_server: SeaweedServer, proxy: S3Proxy, large: bytes, *, only_new: bool
) -> None:
    store = open_through(proxy)
    proxy.fail("status", method="POST", key="uploadId=", status=404, code="NoSuchUpload")
    if only_new:
        assert store.create("k", large)
    else:
        store.put("k", large)
    assert store.get("k") == large
    assert unfinished(s3_server, store) == []


def test_a_lost_answer_to_the_completion_does_no_harm(s3_server: SeaweedServer, proxy: S3Proxy, large: bytes) -> None:
    store = open_through(proxy)
    proxy.fail("drop-answer", method="POST", key="put.uploadId=")
    proxy.fail("drop-answer", method="POST", key="create.uploadId=")
    store.put("put", large)
    assert not store.create("create", large)  # as of small objects: who must know compares
    assert store.get("put") == store.get("create") == large
    assert unfinished(s3_server, store) == []


def test_neither_way_makes_a_copy(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    store.put("warm", b"1")
    data, out = bytes(60_000_000), bytearray(60_000_000)
    tracemalloc.start()
    try:
        store.put("k", memoryview(data))
        store.put("small", memoryview(data)[: 16 * MEBIBYTE])
        store.read_into("k", 0, memoryview(out))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out == data
    assert peak < 6_000_000


def test_parts_are_even_and_never_too_many() -> None:
    assert [len(part) for part in cut(memoryview(bytes(16 * MEBIBYTE + 2)))] == [8 * MEBIBYTE + 1] * 2


def test_an_object_that_would_have_too_many_parts_has_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "_MOST_PARTS", 2)
    assert [len(part) for part in cut(memoryview(bytes(40 * MEBIBYTE)))] == [20 * MEBIBYTE] * 2

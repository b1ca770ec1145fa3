"""Objects of others: listed, read in the listed version, and compared with what the server knows of them."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tests.s3_proxy import Kind, S3Proxy
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores import s3_objects
from tuneyard.trainers.stores.s3_objects import Facts, ReplacedError, S3Object, S3Objects
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.s3_verify import verify_file
from tuneyard.trainers.stores.store import Store, open_store

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
def store(s3_server: SeaweedServer) -> Store:
    return open_store("s3://tests", S3Options(endpoint_url=s3_server.endpoint_url))


@pytest.fixture(scope="module")
def proxied(s3_server: SeaweedServer) -> Iterator[tuple[S3Proxy, S3Objects]]:
    """Made once: a client of boto3 takes a while."""
    with S3Proxy(s3_server.endpoint_url) as proxy:
        options = S3Options(endpoint_url=proxy.endpoint_url, deadline_s=20)
        yield proxy, S3Objects("tests", options, setting="data.source")


@pytest.fixture
def proxy(proxied: tuple[S3Proxy, S3Objects]) -> Iterator[S3Proxy]:
    yield proxied[0]
    proxied[0].heal()


@pytest.fixture
def objects(proxied: tuple[S3Proxy, S3Objects]) -> S3Objects:
    return proxied[1]


def stored(store: Store, objects: S3Objects, data: bytes = DATA) -> S3Object:
    """A new object, as it is listed."""
    prefix = uuid4().hex
    store.put(f"{prefix}/k", data)
    ((found,),) = objects.listing(prefix)
    return found


def read(objects: S3Objects, found: S3Object, start: int = 0, count: int | None = None) -> bytes:
    out = bytearray(found.size_bytes if count is None else count)
    objects.read(found, start, memoryview(out))
    return bytes(out)


def test_a_listing_has_sizes_and_md5s(store: Store, objects: S3Objects) -> None:
    found = stored(store, objects, b"hello")
    assert (found.size_bytes, found.md5) == (5, "5d41402abc4b2a76b9719d911017c592")


def test_a_listing_goes_on_from_page_to_page(store: Store, objects: S3Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "_PAGE", 3)
    prefix = uuid4().hex
    names = [f"{prefix}/{folder}/{number}" for folder in "abcd" for number in range(2)]
    for name in names:
        store.put(name, b"x")
    assert [one.key for page in objects.listing(f"{prefix}/") for one in page] == names
    assert [one.key for page in objects.listing(f"{prefix}/", after=names[4]) for one in page] == names[5:]
    assert objects.folders(f"{prefix}/") == [f"{prefix}/{folder}/" for folder in "abcd"]
    assert [list(page) for page in objects.listing(f"{prefix}-none")] == [[]]


@pytest.mark.parametrize(("start", "count"), [(0, len(DATA)), (7, 1000), (0, 0)])
def test_bytes_are_read_from_anywhere(store: Store, objects: S3Objects, start: int, count: int) -> None:
    assert read(objects, stored(store, objects), start, count) == DATA[start : start + count]


@pytest.mark.parametrize("kind", ["status", "reset", "reset-download", "alter-download"])
def test_a_fault_on_the_way_is_tried_again(store: Store, objects: S3Objects, proxy: S3Proxy, kind: Kind) -> None:
    found = stored(store, objects)
    proxy.fail(kind)
    moved: list[int] = []
    out = bytearray(len(DATA))
    objects.read(found, 0, memoryview(out), moved=moved.append)
    assert out == DATA
    assert sum(moved) == len(DATA)


def test_what_never_arrives_as_it_is_stored_is_refused(store: Store, objects: S3Objects, proxy: S3Proxy) -> None:
    found = stored(store, objects)
    proxy.fail("alter-download", times=99)
    with pytest.raises(StoreError, match=r"what arrived, 3 times, is not what lies in the bucket .*alters bytes"):
        read(objects, found)


@pytest.mark.parametrize("count", [len(DATA), 1000])
def test_another_version_is_not_taken_for_the_listed_one(store: Store, objects: S3Objects, count: int) -> None:
    found = stored(store, objects)
    store.put(found.key, DATA[::-1])
    with pytest.raises(ReplacedError, match="replaced or removed"):
        read(objects, found, 0, count)
    store.delete(found.key)
    with pytest.raises(ReplacedError, match="replaced or removed"):
        read(objects, found, 0, count)


def test_reading_ends_when_it_is_told_to(store: Store, objects: S3Objects) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedError):
        objects.read(stored(store, objects), 0, memoryview(bytearray(len(DATA))), stop=stop)


@pytest.mark.parametrize(("size", "kind"), [(300_000, "sha256"), (20_000_001, "md5")], ids=["one-piece", "in-parts"])
def test_a_file_is_compared_with_what_the_server_knows(
    store: Store, objects: S3Objects, size: int, kind: str, tmp_path: Path
) -> None:
    data, path = bytearray(os.urandom(size)), tmp_path / "k"
    found = stored(store, objects, bytes(data))
    path.write_bytes(data)
    assert verify_file(objects, found, path) == kind
    data[-1] ^= 1
    path.write_bytes(data)
    assert verify_file(objects, found, path) is None


class Saying(S3Objects):
    """Says what it is told to of an object and its parts; nothing is asked."""

    def __init__(self, whole: Facts, parts: list[int]) -> None:
        self._whole, self._sizes = whole, parts

    def facts(self, found: S3Object, part: int | None = None) -> Facts:
        return self._whole if part is None else replace(self._whole, part_count=3, part_bytes=self._sizes[part - 1])


NOTHING = Facts(None, None, encrypted=False, part_count=None, part_bytes=0)


@pytest.mark.parametrize(
    ("etag", "facts", "expected"),
    [
        # sha256, and crc32, of b"hello world": openssl dgst -sha256 -binary | base64; zlib.crc32.
        ("x-2", replace(NOTHING, sha256="uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek="), "sha256"),
        ("5eb63bbbe01eeed093cb22bb8f5acdc3", NOTHING, "md5"),
        ("0" * 32, NOTHING, None),
        ("0" * 32, replace(NOTHING, encrypted=True), "size"),
        ("0" * 32, replace(NOTHING, encrypted=True, crc32="DUoRhQ=="), "crc32"),
        ("0" * 32, replace(NOTHING, encrypted=True, crc32="AAAAAA=="), None),
        # md5 of the md5s of b"hello", b" w" and b"orld".
        ("305af63852afd05b259ebf8b6dfd07be-3", NOTHING, "md5"),
        ("00000000000000000000000000000000-3", NOTHING, None),
        ("00000000000000000000000000000000-9", NOTHING, "size"),
    ],
)
def test_the_strongest_sum_there_is_decides(etag: str, facts: Facts, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"hello world")
    assert verify_file(Saying(facts, [5, 2, 4]), S3Object("k", 11, etag), path) == expected

"""S3 as it is in life: each fault on the way, made for real by a proxy in front of a real server."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.s3_proxy import S3Proxy
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores import s3_client
from tuneyard.trainers.stores.s3_client import S3Clients
from tuneyard.trainers.stores.s3_download import Download
from tuneyard.trainers.stores.s3_faults import FAULTS
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 1200
"""300 kB: more than what the proxy and the system hold back."""


def open_through(proxy: S3Proxy, *, deadline_s: float = 60.0) -> Store:
    options = S3Options(endpoint_url=proxy.endpoint_url, deadline_s=deadline_s)
    return open_store(f"s3://tests/{uuid4().hex}", options)


def filled(store: Store, length: int) -> bytes:
    out = bytearray(length)
    store.read_into("k", 0, memoryview(out))
    return bytes(out)


@pytest.fixture
def silence_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short deadline shortens the time for a silent server; here only the deadline itself is looked at."""
    monkeypatch.setattr(s3_client, "_READ_TIMEOUTS_S", (30,))


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("k", DATA),
    "create": lambda store: store.create("new", DATA),
    "get": lambda store: store.get("k"),
    "read_into": lambda store: filled(store, len(DATA)),
    "size": lambda store: store.size("k"),
    "keys": lambda store: store.keys(""),
    "delete": lambda store: store.delete("k"),
}
RIGHT = {"put": None, "create": True, "get": DATA, "read_into": DATA, "size": len(DATA), "keys": ["k"], "delete": None}


@pytest.mark.parametrize("kind", ["status", "reset"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_tried_again(proxy: S3Proxy, name: str, kind: str) -> None:
    store = open_through(proxy)
    store.put("k", DATA)
    proxy.requests.clear()
    proxy.fail(kind, times=2)  # type: ignore[arg-type]
    assert OPERATIONS[name](store) == RIGHT[name]
    assert [one.fault for one in proxy.requests] == [kind, kind, None]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "Throttling"),
        (500, "InternalError"),
        (502, "502"),
        (504, "504"),
        (400, "RequestTimeout"),
        (403, "SlowDown"),
    ],
)
def test_an_answer_that_passes_is_tried_again(proxy: S3Proxy, status: int, code: str) -> None:
    store = open_through(proxy)
    proxy.fail("status", status=status, code=code)
    store.put("k", b"1")
    assert [one.status for one in proxy.requests] == [status, 200]


def test_a_while_of_503_is_waited_out(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    begun = time.monotonic()
    proxy.fail("status", seconds=0.6)
    store.put("k", DATA)
    assert time.monotonic() - begun >= 0.6
    assert store.get("k") == DATA


def test_the_deadline_is_kept_and_named(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.4)
    proxy.fail("status", times=1000)
    begun = time.monotonic()
    with pytest.raises(
        StoreError, match=r"gave up after [\d.]+ s \(checkpoint\.deadline_s: 0\.4\), \d+ tries; last: .* 503 SlowDown"
    ):
        store.put("k", DATA)
    assert 0.4 <= time.monotonic() - begun < 5
    assert len(proxy.requests) > 1


@pytest.mark.parametrize("status", [401, 403, 405])
def test_a_refusal_is_told_at_once(proxy: S3Proxy, status: int) -> None:
    store = open_through(proxy)
    proxy.fail("status", times=1000, status=status, code="AccessDenied")
    with pytest.raises(StoreError, match=r"access is denied\..* s3:PutObject"):
        store.put("k", DATA)
    assert len(proxy.requests) == 1


def test_a_server_that_says_nothing_is_left_and_asked_again(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=3.9)
    store.put("k", DATA)
    proxy.requests.clear()
    proxy.fail("hang")
    assert store.get("k") == DATA
    assert [one.fault for one in proxy.requests] == ["hang", None]


def test_a_server_that_never_says_anything_is_given_up(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.5)
    proxy.fail("hang", times=1000)
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"gave up after .*cannot be reached"):
        store.get("k")
    assert time.monotonic() - begun < 5


# On the way up


def test_an_upload_that_breaks_off_is_begun_again(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("reset-upload", times=2)
    store.put("k", DATA)
    assert store.get("k") == DATA


def test_a_body_altered_on_the_way_up_is_refused_and_sent_again(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("alter-upload")
    store.put("k", DATA)
    assert [one.status for one in proxy.requests] == [400, 200]
    assert store.get("k") == DATA


def test_a_body_that_is_always_altered_is_told(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.2)
    proxy.fail("alter-upload", times=1000)
    with pytest.raises(StoreError, match="what arrived was not what was sent"):
        store.put("k", DATA)
    proxy.heal()
    assert store.keys("") == []


def test_the_digest_that_the_caller_knows_is_what_the_server_compares_with(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.1)
    with pytest.raises(StoreError, match="BadDigest"):
        store.put("k", DATA, sha256=bytes(32))


def test_a_lost_answer_of_a_put_does_no_harm(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("drop-answer")
    store.put("k", DATA)
    assert store.get("k") == DATA


def test_a_create_whose_answer_was_lost_is_false_and_there(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("drop-answer")
    assert not store.create("k", DATA)
    assert store.get("k") == DATA


def test_a_conflict_of_two_writers_is_tried_again(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("status", times=2, status=409, code="ConditionalRequestConflict")
    assert store.create("k", DATA)
    assert [one.status for one in proxy.requests] == [409, 409, 200]


@pytest.mark.usefixtures("silence_allowed")
def test_a_slow_upload_is_not_cut_off_by_the_deadline(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.5)
    proxy.bytes_per_s = len(DATA)
    begun = time.monotonic()
    store.put("k", DATA)
    assert time.monotonic() - begun > 0.9
    assert len(proxy.requests) == 1


# On the way down


@pytest.mark.parametrize("whole", [True, False], ids=["get", "read_into"])
def test_a_download_that_breaks_off_goes_on_where_it_was(proxy: S3Proxy, *, whole: bool) -> None:
    store = open_through(proxy)
    data = DATA * 4
    store.put("k", data)
    proxy.requests.clear()
    proxy.fail("reset-download")
    assert (store.get("k") if whole else filled(store, len(data))) == data
    broken, rest = proxy.requests
    first = int(rest.headers["Range"].removeprefix("bytes=").split("-")[0])
    assert 0 < first <= broken.received
    assert first + rest.received == len(data)


def test_a_download_of_an_object_that_was_replaced_meanwhile_is_one_of_the_two(
    proxy: S3Proxy, s3_server: SeaweedServer
) -> None:
    store = open_through(proxy)
    store.put("k", DATA)
    proxy.fail("reset-download")
    client, _ = S3Clients(S3Options(endpoint_url=proxy.endpoint_url)).get(60)
    out = bytearray(len(DATA))
    download = Download("tests", store.uri.removeprefix("s3://tests/") + "/k", "the address", 0, memoryview(out))
    with pytest.raises(FAULTS):
        download(client)
    store.put("k", DATA[::-1])
    download(client)
    assert out == DATA[::-1]


@pytest.mark.usefixtures("silence_allowed")
def test_a_slow_download_is_not_cut_off_by_the_deadline(proxy: S3Proxy) -> None:
    store = open_through(proxy, deadline_s=0.5)
    store.put("k", DATA)
    proxy.requests.clear()
    proxy.bytes_per_s = len(DATA)
    begun = time.monotonic()
    assert store.get("k") == DATA
    assert time.monotonic() - begun > 0.9
    assert len(proxy.requests) == 1


def test_what_is_altered_on_the_way_down_is_for_the_reader_to_see(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    store.put("k", DATA)
    proxy.fail("alter-download")
    assert sum(one != other for one, other in zip(store.get("k"), DATA, strict=True)) == 1


# Credentials


def write_keys(path: Path, key: str, secret: str) -> None:
    path.write_text(f"[team]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


def open_with_profile(proxy: S3Proxy) -> Store:
    return open_store(f"s3://tests/{uuid4().hex}", S3Options(endpoint_url=proxy.endpoint_url, profile="team"))


@pytest.fixture
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of profiles, which boto3 reads."""
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed"])
def test_expired_credentials_are_read_anew(
    proxy: S3Proxy, s3_server: SeaweedServer, keys_file: Path, code: str
) -> None:
    write_keys(keys_file, "expired-key", "expired-secret")
    store = open_with_profile(proxy)
    write_keys(keys_file, s3_server.access_key, s3_server.secret_key)
    proxy.fail("status", status=400, code=code)
    store.put("k", DATA)
    assert store.get("k") == DATA
    assert [one.status for one in proxy.requests] == [400, 200, 200]


def test_keys_that_were_changed_while_the_run_goes_on_are_read_anew(
    proxy: S3Proxy, s3_server: SeaweedServer, keys_file: Path
) -> None:
    write_keys(keys_file, s3_server.access_key, s3_server.secret_key)
    store = open_with_profile(proxy)
    store.put("k", b"1")
    proxy.fail("status", status=403, code="InvalidAccessKeyId")
    store.put("k", b"2")
    assert [one.status for one in proxy.requests] == [200, 403, 200]


def test_credentials_that_stay_expired_are_told_after_one_more_try(proxy: S3Proxy) -> None:
    store = open_through(proxy)
    proxy.fail("status", times=1000, status=400, code="ExpiredToken")
    with pytest.raises(StoreError, match=r"expired, and read anew they still have \(ExpiredToken\)\. Log in again"):
        store.put("k", DATA)
    assert len(proxy.requests) == 2

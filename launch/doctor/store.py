"""The doctor's look at a store: reached, written, read, written only once, and no more rights than needed.

All is done through the store's own port, as runs do it; only the request without credentials goes past it.
"""

import logging
import os
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tuneyard.cluster.amounts import rate_text, size_text
from tuneyard.cluster.doctor.clock import judge_server, offset_of_date
from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning
from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

NAME = "S3"
REACH, WRITE, READ, ONCE, PARTS = "S3: list", "S3: write", "S3: read", "S3: write once", "S3: in parts"
DELETE, BEYOND, PUBLIC, CLOCK = "S3: delete", "S3: beyond the prefix", "S3: public", "S3: clock"

_DEADLINE_S = 10.0
_ANSWER_S = 10.0
_PART_BYTES = 16 * 2**20
"""What a store sends in one piece at most (its own constant); one byte more goes in parts."""

_OWNER = "Whoever owns the bucket must allow it."


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Which store is looked at, and from where.

    Attributes:
        on_node: a cluster's node asks, whose credentials should not delete.
        ours: the node's role is made by our own Terraform, which gives it its own prefix and nothing else.
    """

    uri: str
    options: S3Options
    on_node: bool = False
    ours: bool = False

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.uri.removeprefix("s3://").partition("/")[0]


def check_store(place: StorePlace) -> Iterator[Finding]:
    """All about this store. What it writes it removes again; where it cannot, the findings' data has `left`."""
    if not place.uri.startswith("s3://"):
        yield _folder(place)
        return
    yield from _anonymous(place)
    folder = f"doctor-{secrets.token_hex(8)}"
    try:
        store = open_store(place.uri, replace(place.options, deadline_s=_DEADLINE_S))
        begun = time.monotonic()
        store.keys(f"{folder}/")
    except StoreError as error:
        yield failure(REACH, str(error), "Until then no run can keep anything there.")
        return
    yield ok(REACH, f"{place.uri} answers within {time.monotonic() - begun:.2f} s")
    key = f"{folder}/probe"
    written = yield from _rights(store, key)
    if written:
        yield _delete(store, key, place)
    yield from _beyond(place, folder)


def remove_left(place: StorePlace, keys: list[str]) -> Finding:
    """Remove what nodes without the right to delete have left, with the rights of this machine."""
    name = "S3: clean-up"
    try:
        store = open_store(place.uri, replace(place.options, deadline_s=_DEADLINE_S))
        for key in keys:
            store.delete(key)
    except StoreError as error:
        return warning(name, f"stays in {place.uri}: {', '.join(keys)} (a few bytes each): {error}", "Delete them.")
    return ok(name, f"what the nodes could not delete is removed from here: {len(keys)} objects of a few bytes")


def _folder(place: StorePlace) -> Finding:
    if place.on_node:
        return warning(
            NAME,
            f"the store is a folder, {place.uri}: each node has its own, unless it is a shared disk",
            "Give a store in S3: checkpoint.store=s3://bucket/prefix.",
        )
    return not_applicable(NAME, f"the store is a folder: {place.uri}")


def _rights(store: Store, key: str) -> Generator[Finding, None, bool]:
    """Write, read, write only once, write in parts; returns whether something was written."""
    data = secrets.token_bytes(64)
    try:
        created = store.create(key, data)
    except StoreError as error:
        yield failure(WRITE, str(error), f"{_OWNER} The right is s3:PutObject.")
        return False
    if not created:
        yield failure(
            WRITE,
            "the server says that a new name is taken",
            "It does not keep to S3's conditional writes: update the server, or take another one.",
        )
        return True
    yield ok(WRITE, "an object was written, with its SHA-256 compared by the server")
    yield _read(store, key, data)
    yield _once(store, key)
    yield _in_parts(store, key)
    return True


def _read(store: Store, key: str, data: bytes) -> Finding:
    try:
        found = store.get(key)
    except StoreError as error:
        return failure(READ, str(error), f"{_OWNER} The right is s3:GetObject.")
    if found != data:
        return failure(
            READ, "what is read is not what was written", "Something alters objects: find it before you use it."
        )
    return ok(READ, "read back as it was written")


def _once(store: Store, key: str) -> Finding:
    try:
        again = store.create(key, b"another writer")
    except StoreError as error:
        return failure(ONCE, str(error), "The server must know IfNoneMatch (S3 since 2024): update it.")
    if again:
        return failure(
            ONCE,
            "a second writer replaced the first one's object: IfNoneMatch is ignored",
            "Two processes could both take a run for theirs. Update the server, or take another one.",
        )
    return ok(ONCE, "a second writer is refused (412)")


def _in_parts(store: Store, key: str) -> Finding:
    """Under the name that is taken: the parts go up, and the server must refuse to put them together."""
    size = _PART_BYTES + 1
    data = os.urandom(size)
    with _warnings() as warnings:
        try:
            begun = time.monotonic()
            replaced = store.create(key, data)
            took_s = time.monotonic() - begun
        except StoreError as error:
            return failure(PARTS, str(error), f"Large checkpoints go up in parts. {_OWNER}")
    if replaced:
        return failure(
            PARTS,
            "parts replaced an object that was there: IfNoneMatch is ignored",
            "Two processes could both save a checkpoint. Update the server, or take another one.",
        )
    speed = size / max(took_s, 1e-6)
    told, measured = f"{size_text(size)} at {rate_text(speed)}", {"write_bytes_per_s": round(speed)}
    if warnings:
        advice = f"{_OWNER} The right is s3:AbortMultipartUpload."
        return warning(PARTS, f"{told}; the upload cannot be aborted: {warnings[0]}", advice, measured)
    return ok(PARTS, f"{told}, refused at the end (412), and aborted", measured)


def _delete(store: Store, key: str, place: StorePlace) -> Finding:
    try:
        store.delete(key)
    except StoreError as error:
        if "access is denied" not in str(error):
            return failure(DELETE, str(error), "Delete it by hand.", {"left": [key]})
        if place.on_node:
            return ok(DELETE, "refused, as it should be on a node", {"left": [key]})
        return warning(
            DELETE,
            f"refused; {place.uri}/{key} stays (64 bytes)",
            "Without it old checkpoints are kept and cost money: allow s3:DeleteObject, or add a lifecycle rule.",
            {"left": [key]},
        )
    if place.ours:
        return warning(
            DELETE,
            "allowed: whoever gets into this node can delete your checkpoints",
            "The role that our Terraform makes does not allow it: look for other credentials on the node.",
        )
    return ok(DELETE, "allowed")


def _beyond(place: StorePlace, folder: str) -> Iterator[Finding]:
    """Reading an object that cannot be there: `no such key` is said only to those who may read the bucket."""
    if not place.ours:
        return
    root = open_store(f"s3://{place.bucket}", replace(place.options, deadline_s=_DEADLINE_S))
    try:
        root.get(folder)
    except MissingKeyError:
        yield warning(
            BEYOND,
            "the whole bucket can be read",
            "The node's role should allow its own prefixes only: see its policy.",
        )
    except StoreError:
        yield ok(BEYOND, "refused")


def _anonymous(place: StorePlace) -> Iterator[Finding]:
    """The bucket asked without credentials: refused, it should be; and its answer has the server's time."""
    sent = time.time()
    try:
        status, date = _ask(place)
    except (OSError, ValueError):
        return  # the request with credentials says why, and better
    back = time.time()
    if status == 200:
        yield failure(
            PUBLIC,
            f"anyone can list bucket {place.bucket}, without credentials",
            "Turn on S3's Block Public Access for it, and remove what its policy or ACL allows to everybody.",
        )
    elif status in (401, 403):
        yield ok(PUBLIC, f"refused without credentials ({status})")
    if date is not None:
        yield judge_server(CLOCK, offset_of_date(date, sent, back))


def _ask(place: StorePlace) -> tuple[int, str | None]:
    """The status and the Date header of a listing without credentials."""
    endpoint = place.options.endpoint_url
    base = f"{endpoint.rstrip('/')}/{place.bucket}" if endpoint else f"https://{place.bucket}.s3.amazonaws.com"
    trust = ssl.create_default_context(cafile=place.options.ca_bundle)
    request = urllib.request.Request(f"{base}/?list-type=2&max-keys=1")  # noqa: S310  (http or https, by S3Options)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S, context=trust) as answer:  # noqa: S310
            return answer.status, answer.headers["Date"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Date"]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the upload warns of instead of failing: that its parts stay and cost money."""
    found: list[str] = []
    log = logging.getLogger("tuneyard.trainers.stores.s3_upload")
    handler = _Collect(found.append)
    log.addHandler(handler)
    propagated, log.propagate = log.propagate, False
    try:
        yield found
    finally:
        log.propagate = propagated
        log.removeHandler(handler)


class _Collect(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())

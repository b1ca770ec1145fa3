"""Objects of a bucket as others left them: listed, and read in the very version that was listed."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from botocore import exceptions as faults

from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores.s3_client import S3Clients
from tuneyard.trainers.stores.s3_faults import Place, code_of, status_of
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.s3_tries import S3Tries

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_READ_BYTES = 2**16
_PAGE = 1000
_DAMAGED_TRIES = 3


class ReplacedError(StoreError):
    """The object is not the one that was listed any more: somebody replaced or removed it."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object of a listing; `etag` without its quotation marks."""

    key: str
    size_bytes: int
    etag: str

    @property
    def md5(self) -> str | None:
        """What the ETag is for an object that was sent in one piece, unless a KMS key encrypts it; hexadecimal."""
        return self.etag if len(self.etag) == 32 and "-" not in self.etag else None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says about an object's content, where it says so. The sums are of the whole object, base64."""

    sha256: str | None
    crc32: str | None
    encrypted: bool  # with a key of its owner: the ETag is no MD5 then
    part_count: int | None  # of the parts that it was sent in
    part_bytes: int  # of the part that was asked for


class S3Objects:
    """The objects of one bucket, for reading. Safe for threads.

    `setting`: the experiment's key that names the bucket, for errors; `told` hears why a request is tried again.
    """

    def __init__(
        self, bucket: str, options: S3Options, *, setting: str, told: Callable[[str], None] | None = None
    ) -> None:
        self._bucket = bucket
        place = Place(f"s3://{bucket}", bucket, options, setting, writes=False)
        self._tries = S3Tries(S3Clients(options), place, told)
        self._tries.run(lambda _: None, "open", "")

    def listing(self, prefix: str, after: str = "") -> Iterator[list[S3Object]]:
        """Every object whose key begins with `prefix`, behind the key `after`: a page of a thousand at a time, by key.

        There is one page at least.
        """
        for page in self._pages({"Prefix": prefix} | ({"StartAfter": after} if after else {}), prefix):
            yield [
                S3Object(entry["Key"], entry["Size"], entry["ETag"].strip('"'))
                for entry in page.get("Contents", [])
                # A name that ends with a slash is a "folder" that a console made.
                if not entry["Key"].endswith("/")
            ]

    def folders(self, prefix: str) -> list[str]:
        """The distinct beginnings, up to the next slash, of the keys that begin with `prefix`, sorted."""
        pages = self._pages({"Prefix": prefix, "Delimiter": "/"}, prefix)
        return [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]

    def _pages(self, query: dict[str, Any], prefix: str) -> Iterator[Any]:
        request = query | {"Bucket": self._bucket, "MaxKeys": _PAGE}
        while True:
            ask = partial(_list, request=request)
            page = self._tries.run(ask, "list", prefix)
            yield page
            if not page["IsTruncated"]:
                return
            request = request | {"ContinuationToken": page["NextContinuationToken"]}

    def read(
        self, found: S3Object, start: int, out: memoryview, *, stop: threading.Event | None = None,
        moved: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Fill `out` with the bytes from `start` on. An object that is read as a whole is verified.

        `moved` is told how many more bytes have arrived; fewer than none, where they are to be read again. Raises
        `ReplacedError`; `StoreError` where what arrives stays another than what was stored; InterruptedError once
        `stop` is set.
        """
        if not out.nbytes:
            return
        damaged = 0
        whole = out.nbytes == found.size_bytes

        def once(client: "S3Client") -> None:
            nonlocal damaged
            try:
                answer = client.get_object(**self._request(found, start, out.nbytes))
                _fill(out, answer, stop or threading.Event(), moved or _nobody)
                if whole and found.md5 and not _is_encrypted(answer):
                    _compare(out, found.md5)
            except faults.ClientError as error:
                raise self._replaced(error, found) from error
            except faults.FlexibleChecksumError as error:
                if moved is not None:
                    moved(-out.nbytes)
                damaged += 1
                if damaged == _DAMAGED_TRIES:
                    raise self.damaged(found, str(error)) from error
                raise

        self._tries.run(once, "read", found.key, stop=stop)

    def facts(self, found: S3Object, part: int | None = None) -> Facts:
        """What the server says about the content, or about one of the parts, from 1, that it was sent in."""
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": found.key, "IfMatch": f'"{found.etag}"'}
        request |= {"ChecksumMode": "ENABLED"} if part is None else {"PartNumber": part}

        def ask(client: "S3Client") -> Facts:
            try:
                answer = cast("dict[str, Any]", client.head_object(**request))
            except faults.ClientError as error:
                raise self._replaced(error, found) from error
            return Facts(
                _of_the_whole(answer, "ChecksumSHA256"), _of_the_whole(answer, "ChecksumCRC32"), _is_encrypted(answer),
                answer.get("PartsCount"), answer["ContentLength"],
            )  # fmt: skip

        return self._tries.run(ask, "read", found.key)

    def damaged(self, found: S3Object, why: str) -> StoreError:
        """The error for an object that does not arrive as it was stored."""
        return StoreError(
            f"{self._tries.place.attempt('read', found.key)}: what arrived, {_DAMAGED_TRIES} times, is not what lies in"
            f" the bucket ({why}). A network, a proxy or a disk alters bytes: see which, or upload the object anew."
        )

    def _request(self, found: S3Object, start: int, count: int) -> dict[str, Any]:
        request = {"Bucket": self._bucket, "Key": found.key, "IfMatch": f'"{found.etag}"'}
        if count == found.size_bytes:
            # Without a range the server adds the checksum that it has of the whole, which boto3 then compares.
            return request | {"ChecksumMode": "ENABLED"}
        return request | {"Range": f"bytes={start}-{start + count - 1}"}

    def _replaced(self, error: faults.ClientError, found: S3Object) -> Exception:
        # HEAD's refusals have no body, and so no code of S3's own.
        gone = code_of(error) in ("NoSuchKey", "404", "412") or status_of(error) in (412, 416)
        if not gone:
            return error
        return ReplacedError(f"{self._tries.place.uri}/{found.key}: it was replaced or removed while it was read.")


def _list(client: "S3Client", request: dict[str, Any]) -> Any:
    return client.list_objects_v2(**request)


def _nobody(count: int) -> None:
    """Is told how many bytes have moved."""


def _fill(out: memoryview, answer: Any, stop: threading.Event, moved: Callable[[int], None]) -> None:
    body = answer["Body"]
    rest = out
    try:
        while rest:
            if stop.is_set():
                raise InterruptedError("another object could not be read")
            count = body.readinto(rest[:_READ_BYTES])
            if not count:
                read = out.nbytes - rest.nbytes
                raise faults.IncompleteReadError(actual_bytes=read, expected_bytes=out.nbytes)
            rest = rest[count:]
            moved(count)
    except BaseException:
        moved(rest.nbytes - out.nbytes)
        body.close()  # else the connection would stay open, and half read
        raise
    body.read()  # boto3 compares checksums when it comes to the end, and not before


def _compare(data: memoryview, md5: str) -> None:
    arrived = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if arrived != md5:
        raise faults.FlexibleChecksumError(error_msg=f"its MD5 is {arrived} and its ETag {md5}")


def _is_encrypted(answer: Any) -> bool:
    return "SSECustomerAlgorithm" in answer or str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")


def _of_the_whole(answer: dict[str, Any], name: str) -> str | None:
    """A checksum; not one that is made of those of the parts, which ends with their number."""
    value = answer.get(name)
    return value if value and "-" not in value else None

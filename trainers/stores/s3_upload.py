"""Objects on their way into S3: bodies that are not copied, and large ones in several parts at a time."""

import base64
import hashlib
import io
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import IO, TYPE_CHECKING, Any, cast

from botocore import exceptions as faults

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.s3_faults import code_of, status_of
from tuneyard.trainers.stores.s3_tries import S3Tries

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

log = logging.getLogger(__name__)

_PART_BYTES = 16 * 2**20
"""The largest object that goes up in one piece, and the largest part of one that does not; the least has half of it."""

_MOST_PARTS = 10_000
_PARALLEL = 4
_ABORT_DEADLINE_S = 10.0

_PIECE_BYTES = 2**17
"""Each piece must be sent within the time for connecting (5 s), also where several uploads share a slow link."""


class _Body:
    """Pieces of `data`, none of them copied."""

    def __init__(self, data: memoryview, stop: threading.Event | None = None) -> None:
        self._data = data
        self._at = 0
        self._stop = stop

    def read(self, size: int = -1) -> memoryview:
        """The next piece, of our own length: who asks for 16 KiB takes more, and spends less of the processor on it."""
        if self._stop is not None and self._stop.is_set():
            raise InterruptedError("another part of this upload has failed")
        piece = self._data[self._at : self._at + _PIECE_BYTES]
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file's."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """As a file's."""
        return self._at


def body(data: memoryview, stop: threading.Event | None = None) -> IO[bytes]:
    """`data` as a file that boto3 reads an upload from, without a copy; once `stop` is set, reading fails."""
    return cast("IO[bytes]", _Body(data, stop))  # boto3 needs no more of a file than it has


def checksum(data: memoryview, sha256: bytes | None = None) -> str:
    """The SHA-256 as S3 wants it. It is computed only where it is not known."""
    return base64.b64encode(sha256 or hashlib.sha256(data).digest()).decode()


def takes_parts(data: memoryview) -> bool:
    """Is `data` too large for one piece?"""
    return len(data) > _PART_BYTES


class _GoneError(Exception):
    """The server does not know the upload any more: it was aborted elsewhere, or completed by a try without answer."""


class PartsUpload:
    """Puts objects in parts, and aborts what it began when anything fails: unfinished uploads cost money, unseen.

    `extra` is added to each request that begins an upload.
    """

    def __init__(self, tries: S3Tries, extra: dict[str, Any]) -> None:
        self._tries = tries
        self._bucket = tries.place.bucket
        self._extra = extra
        self._open: set[tuple[str, str]] = set()
        # For threads that the interpreter does not wait for at its exit; all others abort on their own way out.
        self._at_exit = weakref.finalize(self, _abort_all, tries, self._open)

    def put(self, name: str, key: str, data: memoryview, *, only_new: bool) -> bool:
        """Upload `data` to the object `name`; False where `only_new` is asked and there is one.

        An upload that the server has forgotten is begun again, once.
        """
        try:
            return self._put(name, key, data, only_new=only_new)
        except _GoneError:
            log.info("%s: the upload of %r was lost by the server and is begun again", self._tries.place.uri, key)
        try:
            return self._put(name, key, data, only_new=only_new)
        except _GoneError as error:
            where = self._tries.place.attempt("write", key)
            raise StoreError(
                f"{where}: the server lost the upload twice. See whether a rule aborts uploads."
            ) from error

    def _put(self, name: str, key: str, data: memoryview, *, only_new: bool) -> bool:
        started = self._tries.run(
            lambda client: client.create_multipart_upload(
                Bucket=self._bucket, Key=name, ChecksumAlgorithm="SHA256", **self._extra
            ),
            "write",
            key,
        )
        upload = (name, started["UploadId"])
        self._open.add(upload)
        committed = False
        try:
            committed = self._commit(upload, key, self._send(upload, key, data), only_new=only_new)
        finally:
            if not committed:
                _abort(self._tries, upload)
            self._open.discard(upload)
        return committed

    def _send(self, upload: tuple[str, str], key: str, data: memoryview) -> "list[CompletedPartTypeDef]":
        stop = threading.Event()
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="s3-parts") as pool:
            try:
                parts = [
                    pool.submit(self._send_part, upload, key, number, part, stop)
                    for number, part in enumerate(cut(data), start=1)
                ]
                for part in as_completed(parts):
                    part.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [part.result() for part in parts]

    def _send_part(
        self, upload: tuple[str, str], key: str, number: int, data: memoryview, stop: threading.Event
    ) -> "CompletedPartTypeDef":
        name, upload_id = upload
        digest = checksum(data)

        def send(client: "S3Client") -> str:
            try:
                return client.upload_part(
                    Bucket=self._bucket, Key=name, UploadId=upload_id, PartNumber=number,
                    Body=body(data, stop), ChecksumSHA256=digest,
                )["ETag"]  # fmt: skip
            except faults.ClientError as error:
                raise _gone(error) from error

        return {"PartNumber": number, "ETag": self._tries.run(send, "write", key, stop=stop), "ChecksumSHA256": digest}

    def _commit(
        self, upload: tuple[str, str], key: str, parts: "list[CompletedPartTypeDef]", *, only_new: bool
    ) -> bool:
        name, upload_id = upload
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if only_new else {}

        def complete(client: "S3Client") -> bool:
            try:
                client.complete_multipart_upload(
                    Bucket=self._bucket, Key=name, UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition
                )
            except faults.ClientError as error:
                if only_new and status_of(error) == 412:
                    return False
                raise _gone(error) from error
            return True

        return self._tries.run(complete, "write", key)


def cut(data: memoryview) -> list[memoryview]:
    """`data` in even parts of 8 to 16 MiB; larger ones where there would be more than S3 allows."""
    count = min(_MOST_PARTS, -(-len(data) // _PART_BYTES))
    size = -(-len(data) // count)
    return [data[at : at + size] for at in range(0, len(data), size)]


def _gone(error: faults.ClientError) -> Exception:
    return _GoneError() if code_of(error) == "NoSuchUpload" else error


def _abort_all(tries: S3Tries, uploads: set[tuple[str, str]]) -> None:
    for upload in list(uploads):
        _abort(tries, upload)


def _abort(tries: S3Tries, upload: tuple[str, str]) -> None:
    """Make the server forget an upload; only a warning where it does not, since another error is on its way."""
    name, upload_id = upload

    def abort(client: "S3Client") -> None:
        try:
            client.abort_multipart_upload(Bucket=tries.place.bucket, Key=name, UploadId=upload_id)
        except faults.ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise

    try:
        tries.run(abort, "abort the upload of", name, deadline_s=min(_ABORT_DEADLINE_S, tries.place.options.deadline_s))
    except MissingKeyError:
        pass
    except StoreError as error:
        log.warning(
            "An unfinished upload stays and costs money until it is aborted (a lifecycle rule does it): %s", error
        )

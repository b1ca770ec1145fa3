"""A store in S3, or in any server that speaks its protocol. The only module that imports boto3."""

import io
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as faults
from botocore.config import Config

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Bytes, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_MULTIPART_BYTES = 64 * 2**20
"""Larger objects go up in pieces, several at a time."""

_TRANSFER = TransferConfig(
    multipart_threshold=_MULTIPART_BYTES, multipart_chunksize=16 * 2**20, max_concurrency=4, use_threads=True
)
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_ATTEMPTS = 5
_CHECK_ATTEMPTS = 2
"""`check` comes before a run, where somebody waits for the answer; a save in the background has more patience."""

_CONFLICT_ATTEMPTS = 6
_CONFLICT_WAIT_S = 0.1

_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in AWS_PROFILE, or give the machine a role."
)
_WRONG_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "ExpiredTokenException"}
_WRONG_REGION = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class S3Store:
    """Keys are objects under `prefix` of `bucket`. Safe for threads: they share one client and its connections.

    Credentials come from where AWS's own tools look for them, and from nowhere else.
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint_url: str | None = None, region: str | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._region = region
        self._client = self._make_client(_ATTEMPTS)

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`"""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, key: str, data: Bytes) -> None:
        """Write `data`, replacing what was there. The server checks its SHA-256."""
        name = self._name(key)
        with self._faults("write", key):
            if len(data) > _MULTIPART_BYTES:
                self._client.upload_fileobj(
                    io.BufferedReader(_Reader(data)),
                    self._bucket,
                    name,
                    ExtraArgs={"ChecksumAlgorithm": "SHA256"},
                    Config=_TRANSFER,
                )
            else:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=bytes(data), ChecksumAlgorithm="SHA256")

    def create(self, key: str, data: Bytes) -> bool:
        """Write `data` only if `key` does not exist; False, and nothing written, where it does."""
        name = self._name(key)
        with self._faults("write", key):
            for attempt in range(_CONFLICT_ATTEMPTS):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=name, Body=bytes(data), ChecksumAlgorithm="SHA256", IfNoneMatch="*"
                    )
                except faults.ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return False
                    # 409: another writer of this key was at work in the same moment, and nobody has won yet.
                    if status != 409 or attempt == _CONFLICT_ATTEMPTS - 1:
                        raise
                    time.sleep(_CONFLICT_WAIT_S * 2**attempt)
                else:
                    return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    def get(self, key: str) -> bytes:
        """The bytes at `key`; raises `MissingKeyError` where there are none."""
        name = self._name(key)
        with self._faults("read", key):
            for attempt in range(_ATTEMPTS):
                answer = self._client.get_object(Bucket=self._bucket, Key=name)
                try:
                    return answer["Body"].read()
                except (faults.HTTPClientError, faults.IncompleteReadError, faults.ResponseStreamingError):
                    # boto3 repeats a request that failed, but not one that breaks off in the middle of its answer.
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def exists(self, key: str) -> bool:
        """Is there something at `key`?"""
        name = self._name(key)
        with self._faults("read", key):
            try:
                self._client.head_object(Bucket=self._bucket, Key=name)
            except faults.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return False
                raise
        return True

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        with self._faults("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return sorted(
                entry["Key"].removeprefix(self._prefix)
                for page in pages
                for entry in page.get("Contents", [])
                if not entry["Key"].endswith("/")  # a "folder" that a console made
            )

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there."""
        name = self._name(key)
        with self._faults("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def check(self) -> None:
        """List, write and delete once, since the checkpoints to come depend on all three."""
        client = self._make_client(_CHECK_ATTEMPTS)
        name = f"{self._prefix}check-{secrets.token_hex(8)}"
        with self._faults("list", ""):
            # Not head_bucket: its answers have no body, so that a wrong key and a missing permission look alike.
            client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        with self._faults("write", ""):
            client.put_object(Bucket=self._bucket, Key=name, Body=b"ok", ChecksumAlgorithm="SHA256")
        with self._faults("delete", ""):
            client.delete_object(Bucket=self._bucket, Key=name)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _make_client(self, attempts: int) -> "S3Client":
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            # Who needs to know compares digests; a mismatch that boto3 finds would look like a network fault.
            response_checksum_validation="when_required",
            # Other servers than AWS's are reached by one host name, without one for each bucket.
            s3={"addressing_style": "path" if self._endpoint_url else "auto"},
        )
        with self._faults("open", ""):
            try:
                session = boto3.Session(region_name=self._region)
                # A region must be named to sign requests; servers other than AWS's accept any.
                region = session.region_name or ("us-east-1" if self._endpoint_url else None)
                return session.client("s3", endpoint_url=self._endpoint_url, region_name=region, config=config)
            except ValueError as error:
                raise StoreError(f"{self.uri}: the S3 client cannot be made ({error}).") from error

    @contextmanager
    def _faults(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except faults.ClientError as error:
            raise self._refused(error, verb, key) from error
        except (faults.BotoCoreError, Boto3Error) as error:
            raise StoreError(f"{self._attempt(verb, key)}: {self._advice(error)}") from error

    def _attempt(self, verb: str, key: str) -> str:
        at = f" at {self._endpoint_url}" if self._endpoint_url else ""
        return f"{self.uri}{at}: could not {verb} {key!r}" if key else f"{self.uri}{at}: could not {verb}"

    def _refused(self, error: faults.ClientError, verb: str, key: str) -> StoreError:
        """The error for an answer of the server. Its text is quoted; it never holds the secret."""
        code = error.response.get("Error", {}).get("Code", "")
        attempt = self._attempt(verb, key)
        if code in ("NoSuchKey", "404"):
            return MissingKeyError(f"{self.uri}/{key}: there is nothing under this key.")
        if code == "NoSuchBucket":
            option = f" --endpoint-url {self._endpoint_url}" if self._endpoint_url else ""
            return StoreError(
                f"{attempt}: there is no bucket {self._bucket!r}. Make it with"
                f" `aws s3 mb s3://{self._bucket}{option}`, or correct checkpoint.store."
            )
        if code in _WRONG_KEYS:
            return StoreError(f"{attempt}: the credentials are wrong or have expired ({code}). {_CREDENTIALS}")
        if code in _WRONG_REGION:
            return StoreError(
                f"{attempt}: the bucket lies in another region ({code}). Set checkpoint.region to its own."
            )
        if code in ("AccessDenied", "403"):
            return StoreError(
                f"{attempt}: access is denied. These credentials need s3:ListBucket on the bucket, and s3:GetObject,"
                " s3:PutObject and s3:DeleteObject on its objects."
            )
        return StoreError(f"{attempt}: the server answered {error}.")

    def _advice(self, error: Exception) -> str:
        """What to do about a fault on our side of the wire."""
        if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
            return f"there are no complete credentials. {_CREDENTIALS}"
        if isinstance(error, faults.NoRegionError):
            return "no region is set. Set checkpoint.region, or AWS_DEFAULT_REGION."
        if isinstance(error, faults.HTTPClientError | faults.ConnectionError):
            return (
                f"the server cannot be reached ({error}). See that it is up, that checkpoint.endpoint_url is right, and"
                " that no firewall or proxy is in between."
            )
        return f"{error}."


class _Reader(io.RawIOBase):
    """A file over bytes that are somewhere else already; `io.BytesIO` would copy them all at once."""

    def __init__(self, data: Bytes) -> None:
        self._data = memoryview(data).cast("B")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # narrower than Buffer
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, start + offset)
        return self._at

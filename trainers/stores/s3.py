"""A store in S3, or in any server that speaks its protocol."""

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore import exceptions as faults

from tuneyard.trainers.errors import DeleteRefusedError, MissingKeyError
from tuneyard.trainers.stores.s3_client import S3Clients
from tuneyard.trainers.stores.s3_download import Download
from tuneyard.trainers.stores.s3_faults import Place, status_of
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.s3_tries import S3Tries
from tuneyard.trainers.stores.s3_upload import PartsUpload, body, checksum, takes_parts
from tuneyard.trainers.stores.store import Bytes, check_digest, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

_CHECK_TRIES = 3
"""`check` comes before a run, where somebody waits for the answer; a save in the background has more patience."""


class S3Store:
    """Keys are objects under `prefix` of `bucket`. Safe for threads: they share one client and its connections.

    Every upload has its SHA-256 with it, which the server compares with what arrived. Faults that pass are waited out
    for `options.deadline_s`; credentials that have expired are read anew, once.
    """

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        kms_key = options.kms_key
        self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        self._tries = S3Tries(S3Clients(options), Place(self.uri, bucket, options))
        self._parts = PartsUpload(self._tries, self._encryption)
        self._tries.run(lambda _: None, "open", "")

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`"""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        """Write `data`, replacing what was there. In parts, if it is large; each has a SHA-256 of its own then."""
        self._write(key, data, sha256, only_new=False)

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        """Write `data` only if `key` does not exist; False, and nothing written, where it does."""
        return self._write(key, data, sha256, only_new=True)

    def get(self, key: str) -> bytes:
        """The bytes at `key`; raises `MissingKeyError` where there are none."""
        download = Download(self._bucket, self._name(key), f"{self.uri}/{key}")
        self._tries.run(download, "read", key)
        return bytes(download.whole)

    def read_into(self, key: str, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes at `key` from `start` on."""
        if not out.nbytes:
            self.size(key)  # no request can ask for no bytes
            return
        self._tries.run(Download(self._bucket, self._name(key), f"{self.uri}/{key}", start, out), "read", key)

    def size(self, key: str) -> int:
        """The number of bytes at `key`."""
        name = self._name(key)

        def ask(client: "S3Client") -> int:
            # The first byte, and not HEAD: its refusals have no body, so that all reasons for one look alike.
            try:
                answer = client.get_object(Bucket=self._bucket, Key=name, Range="bytes=0-0")
            except faults.ClientError as error:
                if status_of(error) == 416:
                    return 0
                raise
            answer["Body"].read()
            _, _, total = answer.get("ContentRange", "").partition("/")
            return int(total or answer["ContentLength"])

        return self._tries.run(ask, "read", key)

    def exists(self, key: str) -> bool:
        """Is there something at `key`?"""
        try:
            self.size(key)
        except MissingKeyError:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        found: list[str] = []
        page = self._page(prefix, "")
        while True:
            names = [entry["Key"] for entry in page.get("Contents", [])]
            # A name that ends with a slash is a "folder" that a console made.
            found += [name.removeprefix(self._prefix) for name in names if not name.endswith("/")]
            if not page["IsTruncated"]:
                return sorted(found)
            page = self._page(prefix, page["NextContinuationToken"])

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there."""
        name = self._name(key)
        self._tries.run(lambda client: client.delete_object(Bucket=self._bucket, Key=name), "delete", key)

    def check(self) -> None:
        """List, write and delete once. Who may not delete can train all the same: what is old then stays."""
        name = f"{self._prefix}check-{secrets.token_hex(8)}"
        run = self._tries.run
        # Not head_bucket: its answers have no body, so that a wrong key and a missing permission look alike.
        run(
            lambda client: client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1),
            "list",
            "",
            most=_CHECK_TRIES,
        )
        run(lambda client: self._put_object(client, name, memoryview(b"ok"), None), "write", "", most=_CHECK_TRIES)
        with suppress(DeleteRefusedError):
            run(lambda client: client.delete_object(Bucket=self._bucket, Key=name), "delete", "", most=_CHECK_TRIES)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _write(self, key: str, data: Bytes, sha256: bytes | None, *, only_new: bool) -> bool:
        check_digest(sha256)
        name, view = self._name(key), memoryview(data).cast("B")
        if takes_parts(view):
            return self._parts.put(name, key, view, only_new=only_new)
        digest = checksum(view, sha256)

        def write(client: "S3Client") -> bool:
            try:
                self._put_object(client, name, view, digest, only_new=only_new)
            except faults.ClientError as error:
                if only_new and status_of(error) == 412:
                    return False
                raise
            return True

        return self._tries.run(write, "write", key)

    def _put_object(
        self, client: "S3Client", name: str, data: memoryview, digest: str | None, *, only_new: bool = False
    ) -> None:
        more: dict[str, Any] = self._encryption | ({"IfNoneMatch": "*"} if only_new else {})
        client.put_object(
            Bucket=self._bucket, Key=name, Body=body(data), ChecksumSHA256=digest or checksum(data), **more
        )

    def _page(self, prefix: str, token: str) -> "ListObjectsV2OutputTypeDef":
        place: dict[str, Any] = {"ContinuationToken": token} if token else {}
        return self._tries.run(
            lambda client: client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **place),
            "list",
            prefix,
        )

"""Where runs keep their bytes: the port, and its two front doors (a folder, or S3)."""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tuneyard.trainers.errors import ConfigError, StoreError
from tuneyard.trainers.stores.s3_options import S3Options, without_login

Bytes = bytes | bytearray | memoryview

TEMPORARY_PREFIX = ".tmp-"
"""File names that start so belong to a write that is not finished; no key may have such a part."""


class Store(Protocol):
    """A flat map from key (`a/b/c`, ASCII, no leading slash) to bytes, under one root URI.

    Contract, the same for every implementation: a `put` or `create` is seen whole or not at all, also after a crash;
    once it returns, every later `get` and `keys` sees it. Faults raise `StoreError` with what to do.
    """

    @property
    def uri(self) -> str:
        """Where this store is, as `file:///…` or `s3://bucket/prefix`."""
        ...

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        """Write `data`, replacing what was there.

        `sha256` is its digest (32 bytes), where the caller knows it already: a store behind a network has the far end
        compare it with what arrived. `data` is not copied, and must not change until `put` returns.
        """
        ...

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        """Write `data` only if `key` does not exist; False, and nothing written, where it does. Else as `put`.

        Of many writers exactly one wins. Over a network the winner's own retry may find its first try there, whose
        answer was lost, and see False: who must know reads the key and compares.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes at `key`; raises `MissingKeyError` where there are none."""
        ...

    def read_into(self, key: str, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes at `key` from `start` on; nothing more is read, and there is no other copy.

        Raises `MissingKeyError` where there is nothing under the key, and `StoreError` where it ends too early; `out`
        may be filled in part then.
        """
        ...

    def size(self, key: str) -> int:
        """The number of bytes at `key`; raises `MissingKeyError` where there is nothing."""
        ...

    def exists(self, key: str) -> bool:
        """Is there something at `key`?"""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there."""
        ...

    def check(self) -> None:
        """Raise `StoreError` unless this store can be reached and written to."""
        ...


def open_store(uri: str, options: S3Options | None = None) -> Store:
    """The store at `uri`: an absolute folder, `file:///folder`, or `s3://bucket/prefix`. Nothing is written yet.

    `options` are for S3 only. Raises `ConfigError` for any other URI, and `StoreError` where the S3 client cannot be
    made.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        # Imported only here: boto3 takes half a second, which a run that keeps its bytes in a folder should not pay.
        from tuneyard.trainers.stores.s3 import S3Store

        bucket, prefix = _bucket_and_prefix(uri)
        return S3Store(bucket, prefix, options or S3Options())
    from tuneyard.trainers.stores.file_store import FileStore  # it imports this module

    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return FileStore(Path(unquote(parts.path)))
    if uri.startswith("/"):
        return FileStore(Path(uri))
    raise ConfigError(
        f"store: {without_login(uri)!r} is not a place for checkpoints. Allowed: an absolute folder such as"
        " /data/runs, file:///data/runs, or s3://bucket/prefix."
    )


def check_key(key: str) -> str:
    """`key` itself, if it is one that every store can hold; else `StoreError`."""
    parts = key.split("/")
    if not key.isascii() or not key.isprintable() or "\\" in key:
        problem = "it may hold only printable ASCII, and no backslash"
    elif any(part in ("", ".", "..") for part in parts):
        problem = "its parts, between slashes, may not be empty, '.' or '..'"
    elif any(part.startswith(TEMPORARY_PREFIX) for part in parts):
        problem = f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished writes"
    else:
        return key
    raise StoreError(f"store: {key!r} cannot be a key: {problem}. Allowed: such as 'run-1/checkpoints/manifest.json'.")


def check_digest(sha256: bytes | None) -> None:
    """Raise `ValueError` for what cannot be a SHA-256 digest: hexadecimal text, say. That is a mistake of ours."""
    if sha256 is not None and len(sha256) != 32:
        raise ValueError(f"store: a SHA-256 digest has 32 bytes, and this one {len(sha256)}")


def too_short(address: str, start: int, out: memoryview) -> StoreError:
    """The error for an object that ends before `out` is full."""
    return StoreError(
        f"{address}: it ends before byte {start + out.nbytes}, up to which it was to be read: it was cut off, or"
        " replaced."
    )


def _bucket_and_prefix(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:
        # The text before the @ may be a secret: it is not repeated.
        raise ConfigError(
            "store: an s3:// address may not hold credentials. Give them through AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, an AWS profile, or the machine's role."
        )
    if not bucket:
        raise ConfigError(f"store: {uri!r} names no bucket. Allowed: s3://bucket or s3://bucket/prefix.")
    prefix = prefix.strip("/")
    return bucket, check_key(prefix) if prefix else ""

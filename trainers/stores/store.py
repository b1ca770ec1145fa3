"""Where runs keep their bytes: the port, and its two front doors (a folder, or S3)."""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tuneyard.trainers.errors import ConfigError, StoreError

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

    def put(self, key: str, data: Bytes) -> None:
        """Write `data`, replacing what was there."""
        ...

    def create(self, key: str, data: Bytes) -> bool:
        """Write `data` only if `key` does not exist; False, and nothing written, where it does.

        Of many writers exactly one wins. Over a network the winner's own retry may find its first try there, whose
        answer was lost, and see False: who must know reads the key and compares.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes at `key`; raises `MissingKeyError` where there are none."""
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


def open_store(uri: str, *, endpoint_url: str | None = None, region: str | None = None) -> Store:
    """The store at `uri`: an absolute folder, `file:///folder`, or `s3://bucket/prefix`. Nothing is written yet.

    `endpoint_url` and `region` are for S3 only. Raises `ConfigError` for any other URI, and `StoreError` where the S3
    client cannot be made.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        # Imported only here: boto3 takes half a second, which a run that keeps its bytes in a folder should not pay.
        from tuneyard.trainers.stores.s3 import S3Store

        bucket, prefix = _bucket_and_prefix(uri)
        return S3Store(bucket, prefix, endpoint_url=_plain_endpoint(endpoint_url), region=region)
    from tuneyard.trainers.stores.file_store import FileStore  # it imports this module

    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return FileStore(Path(unquote(parts.path)))
    if uri.startswith("/"):
        return FileStore(Path(uri))
    raise ConfigError(
        f"store: {_without_login(uri)!r} is not a place for checkpoints. Allowed: an absolute folder such as"
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


def _plain_endpoint(endpoint_url: str | None) -> str | None:
    if endpoint_url is None:
        return None
    parts = urlsplit(endpoint_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(
            f"endpoint_url: {_without_login(endpoint_url)!r} is not the address of an S3 server. Allowed: https://HOST"
            " or http://HOST:PORT, without a user name or password."
        )
    return endpoint_url


def _without_login(uri: str) -> str:
    head, at, tail = uri.rpartition("@")
    return f"{head.split('//')[0]}//***@{tail}" if at and "//" in head else uri

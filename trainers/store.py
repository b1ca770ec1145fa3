"""Where runs keep their bytes: the port, and its two front doors (a folder, or S3)."""

from typing import Protocol

Bytes = bytes | bytearray | memoryview


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
        """Write `data` only if `key` does not exist; False, and nothing written, where it does."""
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

"""Small states and their checkpoints, and stores that can be watched and held up."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.manifest import Manifest, parse_manifest
from tuneyard.trainers.errors import FencedError, StoreError
from tuneyard.trainers.stores.store import Bytes, Store

PREFIX = "exp/run/"


def state(value: float) -> dict[str, Any]:
    """A small state: a part that changes with `value`, one that never does, and one without tensors."""
    return {
        "model": {"weight": torch.full((3, 4), value), "count": torch.tensor(7)},
        "frozen": torch.arange(1000),
        "progress": {"value": value, "order": (1, 2)},
    }


def value_of(loaded: tuple[Any, dict[str, Any]] | None) -> float:
    """The value that the loaded state was made with, after a look at all of it."""
    assert loaded is not None
    value = float(loaded[1]["progress"]["value"])
    assert torch.equal(loaded[1]["model"]["weight"], torch.full((3, 4), value))
    assert torch.equal(loaded[1]["frozen"], torch.arange(1000))
    return value


def saved(store: Store, *values: float, **options: Any) -> Checkpoints:
    """A run that saved one checkpoint for each value, at the steps 10, 20, …; the value is the metric too."""
    checkpoints = Checkpoints(store, PREFIX, **options)
    for number, value in enumerate(values, start=1):
        checkpoints.save(state(value), step=10 * number, epoch=number, metric=value)
        checkpoints.wait()
    return checkpoints


def steps(checkpoints: Checkpoints) -> list[int]:
    """The steps of the committed checkpoints."""
    return [info.step for info in checkpoints.infos()]


def manifest_of(store: Store, step: int, prefix: str = PREFIX) -> Manifest:
    """The only manifest of a step."""
    (key,) = store.keys(f"{prefix}checkpoints/{step:010d}/")
    return parse_manifest(store.get(key))


def blob_of(store: Store, step: int, part: str, prefix: str = PREFIX) -> str:
    """The key of the only blob of a part."""
    (blob,) = manifest_of(store, step, prefix).parts[part].blobs
    return f"{prefix}blobs/{blob.name[:2]}/{blob.name}"


def blobs(store: Store, prefix: str = PREFIX) -> list[str]:
    """The keys of all blobs."""
    return store.keys(f"{prefix}blobs/")


class WrappedStore:
    """A store that tells `before` of each call: its name and its key."""

    def __init__(self, inner: Store, before: Callable[[str, str], None]) -> None:
        self.inner, self.before = inner, before
        self.uri = inner.uri

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        self.before("put", key)
        self.inner.put(key, data, sha256=sha256)

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        self.before("create", key)
        return self.inner.create(key, data, sha256=sha256)

    def get(self, key: str) -> bytes:
        self.before("get", key)
        return self.inner.get(key)

    def read_into(self, key: str, start: int, out: memoryview) -> None:
        self.before("read_into", key)
        self.inner.read_into(key, start, out)

    def size(self, key: str) -> int:
        self.before("size", key)
        return self.inner.size(key)

    def exists(self, key: str) -> bool:
        self.before("exists", key)
        return self.inner.exists(key)

    def keys(self, prefix: str) -> list[str]:
        self.before("keys", prefix)
        return self.inner.keys(prefix)

    def delete(self, key: str) -> None:
        self.before("delete", key)
        self.inner.delete(key)

    def check(self) -> None:
        self.inner.check()


class SlowStore(WrappedStore):
    """A store whose blobs wait until they are let go, and can be made to fail."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, self._hold)
        self.open = threading.Event()
        self.busy = threading.Event()
        self.failures_left = 0

    def _hold(self, call: str, key: str) -> None:
        if call == "put" and "/blobs/" in key:
            self.busy.set()
            assert self.open.wait(60)
            if self.failures_left:
                self.failures_left -= 1
                raise StoreError(f"{self.uri}: the disk is full")


class NumberedFence:
    """Attempt `attempt` of a run; `replaced_at` maps the number of a later attempt to the step that it began from."""

    def __init__(self, attempt: int, replaced_at: dict[int, int] | None = None) -> None:
        self.attempt = attempt
        self.replaced_at = replaced_at if replaced_at is not None else {}

    def check(self) -> None:
        if any(number > self.attempt for number in self.replaced_at):
            raise FencedError("a newer attempt has begun")

    def counts(self, attempt: int, step: int) -> bool:
        return all(step <= began for number, began in self.replaced_at.items() if number > attempt)

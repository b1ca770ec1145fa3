"""A store in memory whose calls take turns: two threads meet in every order that a test asks for."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tuneyard.trainers.errors import MissingKeyError
from tuneyard.trainers.stores.store import Bytes


class Turns:
    """Who may make the next call. `order` names a side for each call; after its end everybody goes as they come."""

    def __init__(self, order: Sequence[str] = ()) -> None:
        self._order = list(order)
        self._ended: set[str] = set()
        self._changed = threading.Condition(threading.RLock())
        self.calls: dict[str, int] = {}

    @contextmanager
    def call(self, side: str) -> Iterator[None]:
        """Wait for this side's turn, and let nobody else in meanwhile."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (side, None), timeout=30)
            self.calls[side] = self.calls.get(side, 0) + 1
            yield
            if self._order:
                del self._order[0]
            self._changed.notify_all()

    def end(self, side: str) -> None:
        """This side makes no more calls; its turns are left out."""
        with self._changed:
            self._ended.add(side)
            self._changed.notify_all()

    def _next(self) -> str | None:
        while self._order and self._order[0] in self._ended:
            del self._order[0]
        return self._order[0] if self._order else None


class MemoryStore:
    """One side's view of `content`, which the sides share."""

    uri = "memory:"

    def __init__(self, content: dict[str, bytes], turns: Turns | None = None, side: str = "") -> None:
        self.content, self._turns, self._side = content, turns or Turns(), side

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        with self._turns.call(self._side):
            self.content[key] = bytes(data)

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        with self._turns.call(self._side):
            return self.content.setdefault(key, found := bytes(data)) is found

    def get(self, key: str) -> bytes:
        with self._turns.call(self._side):
            if key not in self.content:
                raise MissingKeyError(f"{key} is not there")
            return self.content[key]

    def read_into(self, key: str, start: int, out: memoryview) -> None:
        out[:] = self.get(key)[start : start + len(out)]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def exists(self, key: str) -> bool:
        with self._turns.call(self._side):
            return key in self.content

    def keys(self, prefix: str) -> list[str]:
        with self._turns.call(self._side):
            return sorted(key for key in self.content if key.startswith(prefix))

    def delete(self, key: str) -> None:
        with self._turns.call(self._side):
            self.content.pop(key, None)

    def check(self) -> None:
        pass

"""What a sweep's driver asks of its trials' processes on every node: a key in Ray's own key-value store.

All are to stop, or some are to leave, since the machine that they are on is being taken away. Either way a trial saves
after its current step, and ends its leg.
"""

import json
import time
from collections.abc import Iterable
from typing import Literal

import ray
from ray.experimental import internal_kv

SECONDS_BETWEEN_LOOKS = 0.5

Wish = Literal["stop", "leave"]


class Wishes:
    """The driver's end. Nothing is asked at first, whatever a driver of the same id has asked before."""

    def __init__(self, drive_id: str) -> None:
        self._key = _key(drive_id)
        self._stop, self._leaving = False, frozenset[str]()
        internal_kv._internal_kv_del(self._key)

    def stop(self) -> None:
        """Ask all trials to stop."""
        self._stop = True
        self._put()

    def leave(self, actors: Iterable[str]) -> None:
        """Ask the trials in these processes, by Ray's ids of them, to leave; and no others any more."""
        leaving = frozenset(actors)
        if leaving != self._leaving:
            self._leaving = leaving
            self._put()

    def _put(self) -> None:
        asked = {"stop": self._stop, "leave": sorted(self._leaving)}
        internal_kv._internal_kv_put(self._key, json.dumps(asked).encode())


class Asked:
    """A trial's view; looks at most twice a second, so that asking after every step costs nothing.

    Attributes:
        wish: what was asked of this process; None as long as nothing was.
    """

    def __init__(self, drive_id: str) -> None:
        self._key = _key(drive_id)
        self._actor = ray.get_runtime_context().get_actor_id()
        self._looked = 0.0
        self.wish: Wish | None = None

    def __call__(self) -> bool:
        """Is the trial to save and end its leg?"""
        if self.wish is None and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            found = internal_kv._internal_kv_get(self._key)
            asked = json.loads(found) if found is not None else {"stop": False, "leave": []}
            if asked["stop"]:
                self.wish = "stop"
            elif self._actor in asked["leave"]:
                self.wish = "leave"
        return self.wish is not None


def _key(drive_id: str) -> bytes:
    return f"tuneyard:wishes:{drive_id}".encode()

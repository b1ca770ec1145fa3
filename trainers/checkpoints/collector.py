"""Deletes blobs that nothing names any more, safely while others write; `blobs.py` tells how both sides meet."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tuneyard.trainers.checkpoints.blobs import Blobs, Pending
from tuneyard.trainers.checkpoints.committing import in_parallel
from tuneyard.trainers.errors import CheckpointError, DeleteRefusedError, MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

EVERY_S = 60.0

_MANIFEST = re.compile(r"(?:.*/)?checkpoints/\d{10}/manifest-(\d{4,})(?:-\d{4,})?\.json")
_NAME = re.compile(rb"[0-9a-f]{64}(?:-[0-9a-f]{8})?")

Over = Callable[[Pending], bool]
"""Is this announced save over: can nothing that counts come of it any more?"""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was deleted, or would be: blobs, and their bytes."""

    blobs: int
    size_bytes: int


class Collector:
    """Collects the blobs under `blob_prefix`, for all runs below it.

    One at a time is enough; two are safe. `over` finds the announced saves whose writers are gone: without it, what a
    killed writer had announced is kept for good.
    """

    def __init__(self, store: Store, blob_prefix: str, over: Over | None = None) -> None:
        self._store = store
        self._blobs = Blobs(store, blob_prefix)
        self._over = over
        self._named: dict[str, frozenset[str]] = {}  # by manifest; a manifest never changes

    def collect(self, *, force: bool = False, measure: bool = False) -> Collected:
        """Delete what neither a manifest nor an announced save names.

        `force`: no announced save counts, and no list of another collector stays; only for where no run below is saving
        and nobody else collects. `measure`: count the bytes too, which asks the store for the size of each blob.
        Raises `StoreError`, or `CheckpointError` for a list that cannot be read.
        """
        garbage = self._garbage(force=force)
        doomed: set[str] = set()
        size = 0
        if garbage:
            condemned = self._blobs.condemn(garbage)
            doomed = self._unneeded(garbage, force=force)
            size = self._size(doomed) if measure else 0
            in_parallel(self._blobs.delete, list(doomed))
            self._blobs.drop_list(condemned)
        self._drop_lists(force=force)
        return Collected(len(doomed), size)

    def preview(self, *, force: bool = False) -> Collected:
        """What `collect` would delete now."""
        garbage = self._garbage(force=force)
        return Collected(len(garbage), self._size(garbage))

    def _garbage(self, *, force: bool) -> set[str]:
        there = self._blobs.names()
        return self._unneeded(there, force=force) if there else there

    def _unneeded(self, names: set[str], *, force: bool) -> set[str]:
        # In this order: a save that ends in between is in one of the two.
        announced: set[str] = set()
        for pending in self._blobs.pendings():
            announced |= set() if self._is_over(pending, force) else pending.digests
        named = self._named_now()
        return {name for name in names if name not in named and name[:64] not in announced}

    def _is_over(self, pending: Pending, force: bool) -> bool:
        return force or (self._over is not None and self._over(pending))

    def _named_now(self) -> set[str]:
        keys = [key for key in self._store.keys(self._blobs.prefix) if self._attempt(key) is not None]
        found = dict(zip(keys, in_parallel(self._names_in, keys), strict=True))
        # Without a fence a key may come again with another content: nothing is remembered of it.
        self._named = {key: names for key, names in found.items() if self._attempt(key)}
        return set().union(*found.values())

    def _attempt(self, key: str) -> int | None:
        match = _MANIFEST.fullmatch(key.removeprefix(self._blobs.prefix))
        return int(match[1]) if match else None

    def _names_in(self, key: str) -> frozenset[str]:
        """Whatever looks like the name of a blob: a damaged manifest still holds what it names."""
        if key in self._named:
            return self._named[key]
        try:
            return frozenset(name.decode() for name in _NAME.findall(self._store.get(key)))
        except MissingKeyError:
            return frozenset()  # pruned meanwhile

    def _size(self, names: set[str]) -> int:
        def size(name: str) -> int:
            try:
                return self._store.size(self._blobs.key(name))
            except MissingKeyError:
                return 0

        return sum(in_parallel(size, list(names)))

    def _drop_lists(self, *, force: bool) -> None:
        for pending in self._blobs.pendings():
            if self._is_over(pending, force):
                self._blobs.drop_list(pending.key)
        for key in self._blobs.condemned_lists() if force else ():
            self._blobs.drop_list(key)


@contextmanager
def collecting(collector: Collector, every_s: float = EVERY_S) -> Iterator[None]:
    """Collect in a thread while the block runs, and once at its end. What goes wrong is a warning: blobs only stay."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            if not _try_to_collect(collector):
                return

    thread = threading.Thread(target=watch, name="collector", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _try_to_collect(collector)


def _try_to_collect(collector: Collector) -> bool:
    """Is there any sense in trying again?"""
    try:
        collector.collect()
    except DeleteRefusedError as error:
        log.warning("Blobs that no checkpoint needs stay: %s", error)
        return False
    except (StoreError, CheckpointError) as error:
        log.warning("Blobs that no checkpoint needs were not all deleted: %s", error)
    return True

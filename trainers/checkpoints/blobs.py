"""Blobs: bytes named by their digest, which every run under one blob prefix shares; and who still needs them.

    {blob_prefix}blobs/{name[:2]}/{name}      name: the SHA-256 in hexadecimal, or that and a suffix, `-0123abcd`
    {blob_prefix}pending/{unique}.json        the digests that a save under way is going to name
    {blob_prefix}condemned/{unique}.json      the names that a collector is about to delete

No locks and no clocks: a writer and a collector meet in these lists. A writer first says what it needs (pending), then
looks what is condemned, and only then looks what is there. A collector first says what it will delete (condemned), then
looks what is pending, and only then what manifests name; it deletes what neither does. Whichever of the two lists came
first, the other side sees it. What is condemned counts as absent for the writer, who uploads it under a new name: the
deletion may come at any moment. A manifest is created before its pending list goes.

The list of a collector that was killed stays: a deletion which it had sent may still be on its way, and only a clock
could say from when on it is not. It costs writers a new name for what they need of it, and no more; `collect` with
`force` drops it.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tuneyard.trainers.checkpoints.manifest import BLOB_NAME
from tuneyard.trainers.errors import CheckpointError, MissingKeyError
from tuneyard.trainers.stores.store import Store


@dataclass(frozen=True, slots=True)
class Pending:
    """What a save under way needs. `run`: the run's prefix, without that of the blobs."""

    key: str
    run: str
    attempt: int
    step: int
    digests: frozenset[str]


class Blobs:
    """Blobs and the two kinds of lists, under `prefix` of `store`."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self.prefix = prefix
        self._condemned: dict[str, frozenset[str]] = {}  # by key; a list never changes

    def uri(self, key: str) -> str:
        """The full address of `key`, for messages."""
        return f"{self._store.uri}/{self.prefix}{key}"

    def key(self, name: str) -> str:
        """Where the blob of that name lies in the store."""
        return f"{self.prefix}blobs/{name[:2]}/{name}"

    def names(self) -> set[str]:
        """The names of all blobs that are there."""
        keys = self._store.keys(f"{self.prefix}blobs/")
        return {name for key in keys if BLOB_NAME.fullmatch(name := key.rpartition("/")[2])}

    def exists(self, name: str) -> bool:
        """Is this blob there?"""
        return self._store.exists(self.key(name))

    def put(self, name: str, data: memoryview) -> None:
        """Write a blob; `data` is not copied."""
        self._store.put(self.key(name), data, sha256=bytes.fromhex(name[:64]))

    def delete(self, name: str) -> None:
        """Remove a blob; no error where it is not there."""
        self._store.delete(self.key(name))

    def announce(self, run: str, attempt: int, step: int, digests: Iterable[str]) -> Pending:
        """Say what a save is going to need, before it looks at what is there."""
        key = f"{self.prefix}pending/{secrets.token_hex(16)}.json"
        body = {"run": run, "attempt": attempt, "step": step, "digests": sorted(set(digests))}
        self._store.put(key, json.dumps(body, separators=(",", ":")).encode())
        return Pending(key, run, attempt, step, frozenset(digests))

    def pendings(self) -> list[Pending]:
        """All that is announced; raises CheckpointError for a list that cannot be read."""
        read = (self._read(key) for key in self._store.keys(f"{self.prefix}pending/"))
        return [
            Pending(key, body["run"], body["attempt"], body["step"], frozenset(body["digests"]))
            for key, body in filter(None, read)
        ]

    def condemn(self, names: Iterable[str]) -> str:
        """Say what is about to be deleted; returns the list's key."""
        key = f"{self.prefix}condemned/{secrets.token_hex(16)}.json"
        self._store.put(key, json.dumps(sorted(names), separators=(",", ":")).encode())
        return key

    def condemned(self) -> set[str]:
        """The names of all blobs that are condemned now."""
        keys = self.condemned_lists()
        for key in keys:
            if key not in self._condemned and (found := self._read(key)):
                self._condemned[key] = frozenset(found[1])
        self._condemned = {key: names for key, names in self._condemned.items() if key in keys}
        return set().union(*self._condemned.values())

    def condemned_lists(self) -> list[str]:
        """The keys of the lists of what is condemned."""
        return self._store.keys(f"{self.prefix}condemned/")

    def drop_list(self, key: str) -> None:
        """Remove a list of either kind."""
        self._store.delete(key)

    def _read(self, key: str) -> tuple[str, Any] | None:
        try:
            return key, json.loads(self._store.get(key))
        except MissingKeyError:
            return None  # its owner is done
        except ValueError as error:
            raise CheckpointError(
                f"{self._store.uri}/{key} cannot be read ({error}). Delete it once no run under"
                f" {self.uri('')} is saving any more."
            ) from error

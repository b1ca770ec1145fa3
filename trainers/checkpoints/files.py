"""The manifests of one run: where they lie, and how they are read and created.

    {prefix}checkpoints/{step:010d}/manifest-{attempt:04d}-{number:04d}.json    written last: without it, no checkpoint
    {blob_prefix}blobs/{sha256[:2]}/{sha256}                                    see `blobs.py`

A run that was resumed from an older checkpoint reaches the same step again, perhaps with another state. Nothing is
overwritten then: the manifest has the attempt's number, and within the attempt the next one; the newest of a step
counts.
"""

import logging
import re
from dataclasses import dataclass

from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.checkpoints.manifest import DamagedManifestError, Manifest, parse_manifest
from tuneyard.trainers.errors import CheckpointError, MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_COMMITS = 100
"""A manifest loses its number to another writer seldom; a store that refuses this often is not in order."""

MANIFEST = re.compile(r"checkpoints/(\d{10})/manifest-(\d{4,})-(\d{4,})\.json")

_OLD_MANIFEST = re.compile(r"checkpoints/\d{10}/manifest-\d{4,}\.json")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a manifest lies, below the prefix. Ordered by step, attempt and number: the later is the newer."""

    step: int
    attempt: int
    number: int
    key: str


Found = tuple[Place, Manifest]


class CheckpointFiles:
    """Reads and creates manifests under `prefix` of `store`.

    With a `fence`, manifests of attempts that were cut off do not count, and are seen only where that is said.
    `damaged` holds the keys, below the prefix, of the manifests that were found damaged here, or to need what is.
    """

    def __init__(self, store: Store, prefix: str, fence: Fence | None = None) -> None:
        self._store = store
        self._prefix = prefix
        self._fence = fence
        self._parsed: dict[str, Manifest] = {}
        self._number = 0
        self.damaged: set[str] = set()

    def uri(self, key: str) -> str:
        """The full address of `key`, for messages."""
        return f"{self._store.uri}/{self._prefix}{key}"

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there."""
        self._store.delete(self._prefix + key)
        self._parsed.pop(key, None)

    def places(self, step: int | None = None) -> list[Place]:
        """Every committed manifest that counts, or those of one step, oldest first."""
        return [place for place in self.all_places(step) if self.counts(place)]

    def all_places(self, step: int | None = None) -> list[Place]:
        """Those that do not count too."""
        below = "checkpoints/" if step is None else f"checkpoints/{step:010d}/"
        keys = [key.removeprefix(self._prefix) for key in self._store.keys(self._prefix + below)]
        found = map(MANIFEST.fullmatch, keys)
        places = sorted(Place(int(match[1]), int(match[2]), int(match[3]), match[0]) for match in found if match)
        old = next(filter(_OLD_MANIFEST.fullmatch, keys), None)
        if old is not None and not places:
            raise CheckpointError(
                f"{self.uri(old)} is a checkpoint of format 1, which this Tuneyard does not read. Load it with the"
                " Tuneyard that saved it, or start a new run."
            )
        return places

    def counts(self, place: Place) -> bool:
        """Not so for what an attempt has saved after its replacement began."""
        return self._fence is None or self._fence.counts(place.attempt, place.step)

    def read(self, place: Place) -> Manifest:
        """Raises `DamagedManifestError`, or `MissingKeyError` where it was pruned meanwhile."""
        try:
            manifest = self._parse(place)
            if (manifest.step, manifest.attempt) != (place.step, place.attempt):
                raise DamagedManifestError(f"it is that of step {manifest.step}, attempt {manifest.attempt}")
        except DamagedManifestError:
            self.damaged.add(place.key)
            raise
        self._remember(place, manifest)
        return manifest

    def readable(self, places: list[Place] | None = None) -> list[Found]:
        """Every manifest that counts and can be read, oldest first; one that was read before is not read again.

        A damaged one is named in a warning, once. `places`: those found just now, to save the listing.
        """
        found = []
        for place in self.places() if places is None else places:
            known = place.key in self.damaged
            try:
                found.append((place, self._parsed.get(place.key) or self.read(place)))
            except DamagedManifestError as error:
                if not known:
                    log.warning("Manifest %s is damaged and left out: %s", self.uri(place.key), error)
            except MissingKeyError:
                continue
        return found

    def create(self, manifest: Manifest) -> Place:
        """Write the manifest as its attempt's newest, unless the newest of the step already says the same.

        Raises `FencedError` where a newer attempt has begun, `StoreError` where the store refuses every number.
        """
        data = manifest.to_bytes()
        for _ in range(_COMMITS):
            own = [place for place in self.all_places(manifest.step) if place.attempt == manifest.attempt]
            if own and self._says(own[-1], manifest):
                self.damaged.discard(own[-1].key)  # its blobs have just been made whole
                return own[-1]
            self._number = max([self._number, *(place.number for place in own)]) + 1
            key = f"checkpoints/{manifest.step:010d}/manifest-{manifest.attempt:04d}-{self._number:04d}.json"
            place = Place(manifest.step, manifest.attempt, self._number, key)
            if self._fence is not None:
                self._fence.check()
            # Where it says no, somebody else took the number, or our own first try did and its answer was lost.
            if self._store.create(self._prefix + key, data) or self._lies_there(key, data):
                self._remember(place, manifest)
                return place
        raise StoreError(
            f"{self.uri(f'checkpoints/{manifest.step:010d}/')}: the store refuses to create a manifest here, as if "
            "there were one already. Does another process write this run? End it, and resume."
        )

    def _parse(self, place: Place) -> Manifest:
        try:
            return parse_manifest(self._store.get(self._prefix + place.key))
        except DamagedManifestError:
            # A network alters bytes too: only what is wrong twice is damaged.
            return parse_manifest(self._store.get(self._prefix + place.key))

    def _remember(self, place: Place, manifest: Manifest) -> None:
        # The numbers of attempts, and those within one, never come again. Where nobody counts attempts, they may.
        if place.attempt:
            self._parsed[place.key] = manifest

    def _says(self, place: Place, manifest: Manifest) -> bool:
        try:
            return self.read(place).same_content(manifest)
        except (DamagedManifestError, MissingKeyError):
            return False

    def _lies_there(self, key: str, data: bytes) -> bool:
        try:
            return self._store.get(self._prefix + key) == data
        except MissingKeyError:
            return False


def newest_of_each_step(found: list[Found]) -> list[Found]:
    """One for each step; `found` is sorted by place."""
    return list({place.step: (place, manifest) for place, manifest in found}.values())

"""The files of one run's checkpoints: where they lie, how they are written, and how they are verified.

Under the run's prefix:

    blobs/{sha256}.safetensors                            the tensors of one part of the state, named by their digest
    checkpoints/{step:010d}/manifest-{attempt:04d}.json   written last: a checkpoint without it does not exist

A run that was resumed from an older checkpoint reaches the same step again, perhaps with another state. Nothing is
overwritten then: the manifest gets the next attempt's number, and the newest attempt of a step counts.
"""

import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import safetensors.torch

from tuneyard.trainers.checkpoints.manifest import DamagedManifestError, Manifest, Part, parse_manifest
from tuneyard.trainers.checkpoints.staging import StagedPart
from tuneyard.trainers.checkpoints.state_tree import unpack
from tuneyard.trainers.errors import CheckpointError, MissingKeyError, StoreError, choose_from
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_COMMITS = 100
"""A manifest loses its number to another writer seldom; a store that refuses this often is not in order."""

_MANIFEST = re.compile(r"checkpoints/(\d{10})/manifest-(\d{4,})\.json")


class DamagedPartError(CheckpointError):
    """A blob is not there, or not what was saved; the text says which and how."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a manifest lies, below the prefix. Ordered by step and attempt: the later is the newer."""

    step: int
    attempt: int
    key: str


Found = tuple[Place, Manifest]


class CheckpointFiles:
    """Reads and writes manifests and blobs under `prefix` of `store`.

    `damaged` holds the keys, below the prefix, of all that was found damaged here. A blob among them is uploaded anew
    although its name is taken.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self.damaged: set[str] = set()

    def uri(self, key: str) -> str:
        """The full address of `key`, for messages."""
        return f"{self._store.uri}/{self._prefix}{key}"

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`; like all keys here, they are below the run's prefix."""
        return [key.removeprefix(self._prefix) for key in self._store.keys(self._prefix + prefix)]

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there."""
        self._store.delete(self._prefix + key)

    def places(self, step: int | None = None) -> list[Place]:
        """Every committed manifest, or those of one step, oldest first."""
        found = map(_MANIFEST.fullmatch, self.keys("checkpoints/" if step is None else f"checkpoints/{step:010d}/"))
        return sorted(Place(int(match[1]), int(match[2]), match[0]) for match in found if match)

    def read_manifest(self, place: Place) -> Manifest:
        """Raises `DamagedManifestError`, or `MissingKeyError` where it was pruned meanwhile."""
        try:
            manifest = parse_manifest(self._store.get(self._prefix + place.key))
            if manifest.step != place.step:
                raise DamagedManifestError(f"it is that of step {manifest.step}")
        except DamagedManifestError:
            self.damaged.add(place.key)
            raise
        return manifest

    def readable(self) -> list[Found]:
        """Every manifest that can be read, oldest first. A damaged one is named in a warning, once."""
        found = []
        for place in self.places():
            known = place.key in self.damaged
            try:
                found.append((place, self.read_manifest(place)))
            except DamagedManifestError as error:
                if not known:
                    log.warning("Manifest %s is damaged and left out: %s", self.uri(place.key), error)
            except MissingKeyError:
                continue
        return found

    def read_part(self, name: str, manifest: Manifest) -> Any:
        """One part of the state, verified. Raises `DamagedPartError`, or `CheckpointError` for an unknown name."""
        if name not in manifest.parts:
            raise CheckpointError(choose_from(f"part of the checkpoint of step {manifest.step}", name, manifest.parts))
        part = manifest.parts[name]
        try:
            data = self._store.get(self._prefix + part.key)
        except MissingKeyError as error:
            raise DamagedPartError(f"part {name!r} is missing ({part.key})") from error
        if len(data) != part.size_bytes:
            problem = f"has {len(data)} bytes and should have {part.size_bytes}"
        elif hashlib.sha256(data).hexdigest() != part.sha256:
            problem = "does not have the digest that it was saved with"
        else:
            return unpack(safetensors.torch.load(data), part.skeleton)
        self.damaged.add(part.key)
        raise DamagedPartError(f"part {name!r} {problem} ({part.key})")

    def upload(self, staged: StagedPart) -> Part:
        """Write one part's blob, unless a whole one of the same content is there already."""
        image, skeleton = staged.image()
        digest = hashlib.sha256(image).hexdigest()
        key = f"blobs/{digest}.safetensors"
        if key in self.damaged or not self._store.exists(self._prefix + key):
            self._store.put(self._prefix + key, image)
            self.damaged.discard(key)
        return Part(key, len(image), digest, skeleton)

    def commit(self, manifest: Manifest) -> Place:
        """Write the manifest as its step's newest attempt, unless that one already says the same.

        Raises `StoreError` where the store refuses every number and yet lists none.
        """
        for _ in range(_COMMITS):
            newest = max(self.places(manifest.step), default=Place(manifest.step, 0, ""))
            if newest.attempt and self._says(newest, manifest):
                self.damaged.discard(newest.key)  # its blobs have just been made whole
                return newest
            attempt = newest.attempt + 1
            key = f"checkpoints/{manifest.step:010d}/manifest-{attempt:04d}.json"
            if self._store.create(self._prefix + key, manifest.to_bytes()):
                return Place(manifest.step, attempt, key)
            # Somebody else took the number, or our own first try did and its answer was lost: look again.
        raise StoreError(
            f"{self.uri(f'checkpoints/{manifest.step:010d}/')}: the store refuses to create a manifest here, as if "
            "there were one already. Does another process write this run? End it, and resume."
        )

    def delete_unnamed(self, candidates: Iterable[str]) -> int:
        """Delete those of the blobs `candidates` that no manifest names; returns how many."""
        needed = {key for _, manifest in self.readable() for key in manifest.blobs}
        stale = set(candidates) - needed
        for key in stale:
            self.delete(key)
        return len(stale)

    def _says(self, place: Place, manifest: Manifest) -> bool:
        try:
            return self.read_manifest(place).same_content(manifest)
        except (DamagedManifestError, MissingKeyError):
            return False

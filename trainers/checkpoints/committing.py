"""One save, after its state was copied: hashes, uploads what is not there yet, and commits."""

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from tuneyard.trainers.checkpoints.blobs import Blobs, Pending
from tuneyard.trainers.checkpoints.files import CheckpointFiles, Place
from tuneyard.trainers.checkpoints.manifest import Blob, Manifest, Part, RunFacts
from tuneyard.trainers.checkpoints.staging import Staging
from tuneyard.trainers.errors import DeleteRefusedError, StoreError

log = logging.getLogger(__name__)

WRITERS = 8

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UploadProgress:
    """Bytes of a save: how many there are, and how many are durable, sent now or there already."""

    def __init__(self, total_bytes: int = 0) -> None:
        self._lock = threading.Lock()
        self.total_bytes = total_bytes
        self.done_bytes = 0

    @property
    def left_bytes(self) -> int:
        """Bytes that are not durable yet."""
        return self.total_bytes - self.done_bytes

    def add(self, size: int) -> None:
        """These are durable now."""
        with self._lock:
            self.done_bytes += size


@dataclass(frozen=True, slots=True)
class Wish:
    """A save that was asked for, its state copied."""

    staging: Staging
    step: int
    epoch: int
    metric: float | None


class Committer:
    """Makes wishes durable, one at a time.

    `run` is the run's prefix without that of the blobs. Of what a manifest of an attempt before this one names, only
    `verified`, the names of blobs that were read whole, counts as there. `damaged`: those that are there but not as
    they were saved. All others are uploaded anew.
    """

    def __init__(
        self, files: CheckpointFiles, blobs: Blobs, *, run: str, attempt: int, facts: RunFacts, verified: set[str],
        damaged: set[str],
    ) -> None:  # fmt: skip
        self._files, self._blobs, self._run = files, blobs, run
        self._attempt, self._facts, self._verified, self._damaged = attempt, facts, verified, damaged
        self._asked = False
        self._pendings: list[Pending] = []

    def commit(self, wish: Wish, progress: UploadProgress) -> Place:
        """Returns the manifest's place; raises `StoreError`, or `FencedError`."""
        pieces = {name: part.pieces() for name, part in wish.staging.parts.items()}
        flat = [piece for part in pieces.values() for piece in part]
        digests = in_parallel(_digest, flat)
        by_digest = dict(zip(digests, flat, strict=True))
        progress.add(sum(map(len, flat)) - sum(map(len, by_digest.values())))  # equal pieces travel once
        self._pendings.append(self._blobs.announce(self._run, self._attempt, wish.step, by_digest))
        names = self._upload(by_digest, progress)
        in_order = iter(digests)
        parts = {
            name: Part(
                tensors=part.layout.places,
                blobs=tuple(Blob(names[next(in_order)], len(piece)) for piece in pieces[name]),
                skeleton=part.skeleton,
            )
            for name, part in wish.staging.parts.items()
        }
        saved_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(wish.step, wish.epoch, wish.metric, saved_at, self._attempt, self._facts, parts)
        place = self._files.create(manifest)
        self._withdraw()
        return place

    def _upload(self, pieces: Mapping[str, memoryview], progress: UploadProgress) -> dict[str, str]:
        """Have every piece in the store; digest -> name there. `blobs.py` tells why it is done in this order."""
        condemned = self._blobs.condemned()
        names = self._names_there(pieces, condemned)
        progress.add(sum(len(pieces[digest]) for digest in names))
        missing = {digest: _free_name(digest, condemned) for digest in pieces if digest not in names}

        def put(digest: str) -> None:
            self._blobs.put(missing[digest], pieces[digest])
            self._damaged.discard(missing[digest])
            progress.add(len(pieces[digest]))

        in_parallel(put, list(missing))
        return names | missing

    def _names_there(self, digests: Iterable[str], condemned: set[str]) -> dict[str, str]:
        """Digest -> name of what is there to stay: a manifest of this run names it, or, once, the store was asked."""
        unfit = condemned | self._damaged
        named: dict[str, str] = {}
        unseen: set[str] = set()
        for place, manifest in self._files.readable(self._files.all_places()):
            known = place.attempt == self._attempt
            for name in manifest.blob_names - unfit:
                if known or name in self._verified:
                    named[name[:64]] = name
                else:
                    # An attempt before this one may have found it damaged, and gone on from an older checkpoint.
                    unseen.add(name[:64])
        found = {digest: named[digest] for digest in digests if digest in named}
        if not self._asked:
            # Later saves bring what nobody has, or what this run's own manifests name; asking would be for nothing.
            self._asked = True
            asked = set(digests) - found.keys() - unfit - unseen
            others = [digest for digest in digests if digest in asked]
            found |= {digest: digest for digest in self._already_there(others)}
        return found

    def _already_there(self, names: Sequence[str]) -> set[str]:
        if not self._run:
            return self._blobs.names().intersection(names)
        exists = in_parallel(self._blobs.exists, names)  # a sweep's blobs may be many more than these
        return {name for name, there in zip(names, exists, strict=True) if there}

    def _withdraw(self) -> None:
        """The manifest is there: what was announced, also by saves that failed, is not needed any more."""
        try:
            while self._pendings:
                self._blobs.drop_list(self._pendings[0].key)
                del self._pendings[0]
        except DeleteRefusedError:
            self._pendings.clear()  # `prune --force` drops them, with credentials that may
        except StoreError as error:
            log.warning("A list of pending blobs was not deleted, and keeps them from being collected: %s", error)


def in_parallel(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """`work` on every item, several at a time; the results in order. The first error ends it, and is raised."""
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="checkpoints") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _digest(piece: memoryview) -> str:
    return hashlib.sha256(piece).hexdigest()


def _free_name(digest: str, condemned: set[str]) -> str:
    return f"{digest}-{secrets.token_hex(4)}" if digest in condemned else digest

"""Reads parts of a checkpoint: many blobs at a time, straight into the tensors, each verified before it is used."""

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, NoReturn

from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.manifest import Blob, Manifest, Part
from tuneyard.trainers.checkpoints.region import new_region
from tuneyard.trainers.checkpoints.state_tree import unpack
from tuneyard.trainers.errors import CheckpointError, MissingKeyError, StoreError, choose_from
from tuneyard.trainers.stores.store import Store

READERS = 8
_TRIES = 2
"""A network alters bytes too: only what is wrong twice is damaged."""


class DamagedPartError(CheckpointError):
    """A blob is not there, or not what was saved; the text says which and how."""


@dataclass(frozen=True, slots=True)
class _Job:
    part: str
    blob: Blob
    out: memoryview


class PartReader:
    """Reads what manifests name. `verified` and `damaged` hold the names of the blobs that it found whole, or not."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self.verified: set[str] = set()
        self.damaged: set[str] = set()

    def read(self, manifest: Manifest, names: Sequence[str] | None = None) -> dict[str, Any]:
        """These parts of the state, or all.

        Raises `DamagedPartError`, `CheckpointError` for an unknown name, `StoreError` where the store is out of reach.
        """
        for name in names or ():
            if name not in manifest.parts:
                raise CheckpointError(
                    choose_from(f"part of the checkpoint of step {manifest.step}", name, manifest.parts)
                )
        parts = {name: manifest.parts[name] for name in (manifest.parts if names is None else names)}
        regions = {name: new_region(part.size_bytes) for name, part in parts.items()}
        self._fill([job for name, part in parts.items() for job in _jobs(name, part, regions[name].numpy().data)])
        return {
            name: unpack({place.spec.name: place.view(regions[name]) for place in part.tensors}, part.skeleton)
            for name, part in parts.items()
        }

    def problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with the blobs of a checkpoint, each once; nothing where it is whole. Reads all of them."""
        blobs = {blob.name: (name, blob) for name, part in manifest.parts.items() for blob in part.blobs}
        with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
            return sorted(filter(None, pool.map(lambda found: self._problem(*found), blobs.values())))

    def read_blob(self, blob: Blob, part: str = "") -> bytearray:
        """The bytes of one blob, verified; `part` is for the message of the `DamagedPartError`."""
        data = bytearray(blob.size_bytes)
        self._read(_Job(part, blob, memoryview(data)))
        return data

    def _problem(self, part: str, blob: Blob) -> str | None:
        try:
            self.read_blob(blob, part)
        except DamagedPartError as error:
            return str(error)
        return None

    def _fill(self, jobs: Sequence[_Job]) -> None:
        if len(jobs) <= 1:
            for job in jobs:
                self._read(job)
            return
        stop = threading.Event()

        def read(job: _Job) -> None:
            if not stop.is_set():
                self._read(job)

        with ThreadPoolExecutor(READERS, thread_name_prefix="load") as pool:
            try:
                for done in as_completed([pool.submit(read, job) for job in jobs]):
                    done.result()
            finally:
                stop.set()  # of a damaged checkpoint the rest is not worth its way

    def _read(self, job: _Job) -> None:
        for _ in range(_TRIES):
            self._fetch(job)
            if hashlib.sha256(job.out).hexdigest() == job.blob.sha256:
                self.verified.add(job.blob.name)
                return
        self._refuse(job, "does not have the digest that it was saved with")

    def _fetch(self, job: _Job) -> None:
        key = self._blobs.key(job.blob.name)
        try:
            self._store.read_into(key, 0, job.out)
        except MissingKeyError as error:
            self._refuse(job, "is missing", error)
        except StoreError as error:
            if self._store.size(key) >= job.blob.size_bytes:
                raise
            self._refuse(job, "was cut off", error)

    def _refuse(self, job: _Job, problem: str, cause: StoreError | None = None) -> NoReturn:
        self.damaged.add(job.blob.name)
        self.verified.discard(job.blob.name)
        raise DamagedPartError(f"a blob of part {job.part!r} {problem} ({self._blobs.key(job.blob.name)})") from cause


def _jobs(name: str, part: Part, out: memoryview) -> list[_Job]:
    jobs, start = [], 0
    for blob in part.blobs:
        jobs.append(_Job(name, blob, out[start : start + blob.size_bytes]))
        start += blob.size_bytes
    return jobs

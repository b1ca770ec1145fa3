"""What a person does with a run's checkpoints: see whether they are whole, and take one away."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.checkpoints.files import CheckpointFiles, Place, newest_of_each_step
from tuneyard.trainers.checkpoints.manifest import DamagedManifestError, Manifest
from tuneyard.trainers.checkpoints.reading import READERS, PartReader
from tuneyard.trainers.errors import CheckpointError, MissingKeyError
from tuneyard.trainers.stores.store import Store


@dataclass(frozen=True, slots=True)
class Verdict:
    """One checkpoint and what is wrong with it: nothing, where it is whole."""

    step: int
    uri: str
    problems: tuple[str, ...]


class Upkeep:
    """Looks after the checkpoints of one run, of which manifests and blobs lie as `Checkpoints` has them.

    `fence` is a reader's: without one, what a cut-off attempt saved too late is shown and verified too.
    """

    def __init__(self, store: Store, prefix: str, blob_prefix: str | None = None, fence: Fence | None = None) -> None:
        self._store = store
        self._files = CheckpointFiles(store, prefix, fence)
        self._blobs = Blobs(store, prefix if blob_prefix is None else blob_prefix)

    def verify(self, step: int | None = None) -> Iterator[Verdict]:
        """A verdict on each checkpoint, or on that of `step`, newest first. Every byte is read and compared."""
        reader = PartReader(self._store, self._blobs)
        places = {place.step: place for place in self._files.places(step)}
        for place in sorted(places.values(), reverse=True):
            try:
                problems = reader.problems(self._files.read(place))
            except DamagedManifestError as error:
                problems = [f"its manifest: {error}"]
            except MissingKeyError:
                continue  # pruned meanwhile
            yield Verdict(place.step, self._files.uri(place.key), tuple(problems))

    def fetch(self, step: int, goal: Store, prefix: str = "", blob_prefix: str | None = None) -> int:
        """Copy the checkpoint of `step` to `goal`, a store of its own, verified on the way; returns the bytes.

        `Checkpoints(goal, prefix, blob_prefix)` loads it from there. The manifest comes last. Raises `CheckpointError`
        where it is damaged or not there.
        """
        place, manifest = self._only(step)
        there = Blobs(goal, prefix if blob_prefix is None else blob_prefix)
        blobs = {blob.name: blob for part in manifest.parts.values() for blob in part.blobs}
        reader = PartReader(self._store, self._blobs)
        with ThreadPoolExecutor(READERS, thread_name_prefix="fetch") as pool:
            list(pool.map(lambda blob: there.put(blob.name, memoryview(reader.read_blob(blob))), blobs.values()))
        goal.put(f"{prefix}{place.key}", manifest.to_bytes())
        return sum(blob.size_bytes for blob in blobs.values())

    def _only(self, step: int) -> tuple[Place, Manifest]:
        found = newest_of_each_step(self._files.readable(self._files.places(step)))
        if not found:
            saved = ", ".join(str(known) for known in sorted({place.step for place in self._files.places()})) or "none"
            raise CheckpointError(
                f"checkpoints: that of step {step} is not there, or its manifest is damaged, under"
                f" {self._files.uri('checkpoints/')}. Saved steps: {saved}."
            )
        return found[-1]

"""Checkpoints of one run: saved in the background, committed by their manifest, pruned, and verified when read.

`files.py` and `blobs.py` say how they lie in the store.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneyard.trainers.checkpoints.blobs import Blobs, Pending
from tuneyard.trainers.checkpoints.collector import Collector
from tuneyard.trainers.checkpoints.committing import Committer, UploadProgress, Wish
from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.checkpoints.files import CheckpointFiles, Place, newest_of_each_step
from tuneyard.trainers.checkpoints.manifest import DamagedManifestError, Manifest, RunFacts
from tuneyard.trainers.checkpoints.reading import DamagedPartError, PartReader
from tuneyard.trainers.checkpoints.retention import Retention
from tuneyard.trainers.checkpoints.saver import Saver
from tuneyard.trainers.errors import CheckpointError, DeleteRefusedError, MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told how many bytes of a save are durable, and how many there are in all."""

_TELL_AFTER_S = 2.0
_LISTINGS = 3
"""Another process may prune while we read: when all that was listed has gone, list again, this many times in all."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One committed checkpoint. `saved_at` is UTC, ISO 8601; `size_bytes` counts its tensors; `attempt` is 0 where no
    fence kept attempts apart."""

    step: int
    epoch: int
    metric: float | None
    uri: str
    saved_at: str
    size_bytes: int
    attempt: int
    world_size: int


class Checkpoints:
    """The checkpoints of one run: manifests under `prefix` of `store`, blobs under `blob_prefix`.

    Both end with a slash, and `prefix` begins with `blob_prefix`. Runs that share a blob prefix share their blobs;
    somebody else must collect there (`Collector`). A run with blobs of its own collects them itself, after it pruned.

    `save` is for one thread, that of the training loop. `retention.py` says what `keep_last`, `keep_best`, `keep_hours`
    and `mode` mean. `staging_bytes`: what the copies of states may hold in all.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        blob_prefix: str | None = None,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        keep_hours: float | None = None,
        mode: Literal["min", "max"] = "max",
        facts: RunFacts | None = None,
        fence: Fence | None = None,
        staging_bytes: int | None = None,
    ) -> None:
        shared = prefix if blob_prefix is None else blob_prefix
        if any(given and not given.endswith("/") for given in (prefix, shared)) or not prefix.startswith(shared):
            raise CheckpointError(
                f"checkpoints: the prefix {prefix!r} must end with a slash, and begin with that of the blobs,"
                f" {shared!r}."
            )
        self._retention = Retention(keep_last, keep_best, keep_hours, mode)
        self._fence = fence
        self._files = CheckpointFiles(store, prefix, fence)
        blobs = Blobs(store, shared)
        self._reader = PartReader(store, blobs)
        self._committer = Committer(
            self._files, blobs, run=prefix.removeprefix(shared), attempt=fence.attempt if fence else 0,
            facts=facts or RunFacts(), verified=self._reader.verified, damaged=self._reader.damaged,
        )  # fmt: skip
        self._collector = Collector(store, shared, self._is_over)
        self._collects = shared == prefix
        self._told_kept = False
        self._saver = Saver(self._commit, staging_bytes=staging_bytes, place=self._files.uri(""), mode=mode)

    @property
    def left_out(self) -> int:
        """Saves that were asked for and gave way to a newer one, since the store was too slow for both.

        The best one gives way to a better one alone.
        """
        return self._saver.left_out

    @property
    def pending_bytes(self) -> int:
        """Bytes of states that are copied but not durable yet."""
        return self._saver.pending_bytes

    @property
    def durable_step(self) -> int | None:
        """The step of the newest checkpoint that this object has committed."""
        return self._saver.durable_step

    def save(
        self, state: Mapping[str, Any], *, step: int, epoch: int, metric: float | None, steady: Collection[int] = ()
    ) -> None:  # fmt: skip
        """Copy `state` and return; a background thread uploads and commits it, then prunes.

        `steady`: the addresses (`data_ptr`) of tensors in main memory that the caller does not change before `settle`:
        they are copied meanwhile.

        If the save before is still under way, this one waits for it, and takes the place of an older one that waits,
        unless that is the best by its metric, and this one is not better.
        A failure in the background is logged at once and raised by `wait`. Raises `CheckpointError` where the state
        holds what a checkpoint cannot, or more than `staging_bytes`; `FencedError` once a newer attempt has begun.
        """
        self._saver.save(state, step=step, epoch=epoch, metric=metric, steady=steady)

    def settle(self) -> None:
        """To be called before a tensor that a save was told to be steady changes: returns when it is copied."""
        self._saver.settle()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return when every save asked for is durable; False where that takes longer than `timeout_s`.

        Where the last one tried has failed, raises its `StoreError` (or `CheckpointError`), once; a `FencedError`
        every time.
        """
        return self._saver.wait(timeout_s)

    def close(self, progress: Progress | None = None, timeout_s: float | None = None) -> bool:
        """`wait`, then end the background thread, also where `wait` raises. Reading stays possible.

        `progress` is called every two seconds, from the second one on; without it a line of the log says the same.
        """
        try:
            return self._wait_and_tell(progress or _log_progress, timeout_s)
        finally:
            self._saver.end()

    def infos(self) -> list[CheckpointInfo]:
        """The committed checkpoints, by step; one whose manifest is damaged is left out with a warning."""
        return [self._info(*found) for found in newest_of_each_step(self._files.readable())]

    def best(self) -> CheckpointInfo | None:
        """The checkpoint with the best metric, of equal ones the newest; None where none has a finite metric."""
        ranked = self._retention.ranked(newest_of_each_step(self._files.readable()))
        return self._info(*ranked[0]) if ranked else None

    def load(self, step: int | None = None) -> tuple[CheckpointInfo, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or the one of `step`; None where nothing was ever saved.

        Every byte is compared with its digest. A damaged checkpoint is named in a warning, and the one before is
        tried. Raises `CheckpointError` where all are damaged, or where the one of `step` is, or is not there. A store
        that cannot be reached is a `StoreError`, and no reason to fall back on an older checkpoint.
        """
        return self._load(None, step)

    def load_parts(self, names: Sequence[str], *, step: int | None = None) -> dict[str, Any]:
        """Only these top-level parts of the state, such as `["model"]`; nothing else is read or verified.

        As `load` otherwise, but raises `CheckpointError` also where nothing was ever saved.
        """
        found = self._load(names, step)
        if found is None:
            raise CheckpointError(
                f"checkpoints: there are none under {self._files.uri('checkpoints/')}. Train the run first, or see that"
                " its name and its store are right."
            )
        return found[1]

    def sweep(self, *, force: bool = False) -> int:
        """Delete the blobs that neither a manifest nor a save under way needs; returns how many.

        Safe while others save. `force`: what was announced by saves that never ended goes too; only where nobody saves.
        """
        self.wait()
        return self._collector.collect(force=force).blobs

    def _wait_and_tell(self, progress: Progress, timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        most = 0
        while True:
            left_s = _TELL_AFTER_S if deadline is None else min(_TELL_AFTER_S, max(deadline - time.monotonic(), 0.0))
            if self._saver.wait(left_s):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            left = self._saver.pending_bytes
            most = max(most, left, self._saver.total_bytes)
            progress(most - left, most)

    def _commit(self, wish: Wish, progress: UploadProgress) -> None:
        place = self._committer.commit(wish, progress)
        try:
            self._prune(place)
        except DeleteRefusedError as error:
            if not self._told_kept:
                self._told_kept = True
                log.warning(
                    "Checkpoints that checkpoint.keep_last and keep_best would drop stay: %s `tuneyard checkpoints "
                    "prune` drops them later, with credentials that may.", error,
                )  # fmt: skip
        except (StoreError, CheckpointError) as error:
            log.warning("The checkpoint of step %d is saved, but older ones were not pruned: %s", wish.step, error)

    def _prune(self, committed: Place) -> None:
        """Delete the manifests that do not stay; the one just committed always does. Their blobs go by collection."""
        places = self._files.all_places()
        readable = self._files.readable([place for place in places if self._files.counts(place)])
        kept = self._retention.kept(readable, self._files.damaged) | {committed.key} | self._files.damaged
        readable_keys = {place.key for place, _ in readable}
        dropped = [
            place for place in places
            if place.key not in kept and (place.key in readable_keys or self._is_cut_off(place))
        ]  # fmt: skip
        for place in dropped:
            self._files.delete(place.key)
        if dropped and self._collects:
            self._collector.collect()

    def _is_cut_off(self, place: Place) -> bool:
        """Was it saved by an attempt before this one, after this one had begun?"""
        return self._fence is not None and place.attempt < self._fence.attempt and not self._files.counts(place)

    def _is_over(self, pending: Pending) -> bool:
        """Of other runs this one knows nothing."""
        if self._fence is None or not self._collects:
            return False
        return pending.attempt < self._fence.attempt

    def _load(self, names: Sequence[str] | None, step: int | None) -> tuple[CheckpointInfo, dict[str, Any]] | None:
        problems: dict[Place, str] = {}
        for _ in range(_LISTINGS):
            places = [place for place in self._files.places(step) if place not in problems]
            for place in reversed(places):
                try:
                    manifest = self._files.read(place)
                    return self._info(place, manifest), self._reader.read(manifest, names)
                except (DamagedManifestError, DamagedPartError, MissingKeyError) as error:
                    problems[place] = str(error)
                    self._files.damaged.add(place.key)
                    log.warning("The checkpoint of step %d is damaged and passed over: %s", place.step, error)
            if not places:
                break
        if not problems and step is None:
            return None
        raise self._refusal(step, problems)

    def _refusal(self, step: int | None, problems: Mapping[Place, str]) -> CheckpointError:
        where = self._files.uri("checkpoints/")
        listed = "; ".join(f"step {place.step}: {problem}" for place, problem in sorted(problems.items(), reverse=True))
        if step is None:
            return CheckpointError(
                f"checkpoints: none of the {len(problems)} under {where} is whole ({listed})."
                " Restore the files from a copy, or start the run anew under another name."
            )
        saved = ", ".join(str(found) for found in sorted({place.step for place in self._files.places()})) or "none"
        why = f"is damaged ({listed})" if problems else "is not there"
        return CheckpointError(f"checkpoints: that of step {step} {why}, under {where}. Saved steps: {saved}.")

    def _info(self, place: Place, manifest: Manifest) -> CheckpointInfo:
        return CheckpointInfo(
            step=manifest.step, epoch=manifest.epoch, metric=manifest.metric, uri=self._files.uri(place.key),
            saved_at=manifest.saved_at, size_bytes=manifest.size_bytes, attempt=manifest.attempt,
            world_size=manifest.facts.world_size,
        )  # fmt: skip


def _log_progress(done: int, total: int) -> None:
    log.warning("Saving the last checkpoint: %.0f of %.0f MB.", done / 1e6, total / 1e6)

"""Checkpoints of one run: saved in the background, committed by their manifest, pruned, and verified when read.

`checkpoint_files.py` says how they lie in the store.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tuneyard.trainers.checkpoints.files import CheckpointFiles, DamagedPartError, Found, Place
from tuneyard.trainers.checkpoints.manifest import DamagedManifestError, Manifest
from tuneyard.trainers.checkpoints.staging import Staging
from tuneyard.trainers.errors import CheckpointError, MissingKeyError, StoreError, TuneyardError
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_LISTINGS = 3
"""Another process may prune while we read: when all that was listed has gone, list again, this many times in all."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One committed checkpoint. `saved_at` is UTC, ISO 8601; `size_bytes` counts its tensors."""

    step: int
    epoch: int
    metric: float | None
    uri: str
    saved_at: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Wish:
    """A save that was asked for, its state copied."""

    staging: Staging
    step: int
    epoch: int
    metric: float | None


class Checkpoints:
    """The checkpoints of one run, under `prefix` (which ends with a slash) of `store`.

    `save` is for one thread, that of the training loop. Kept are the `keep_last` newest by step, and the `keep_best`
    whose metric is best (`mode` says which way; of equal ones the newer).
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        mode: Literal["min", "max"] = "max",
    ) -> None:
        if prefix and not prefix.endswith("/"):
            raise CheckpointError(f"checkpoints: the prefix {prefix!r} must end with a slash.")
        if keep_last < 1 or keep_best < 0:
            raise CheckpointError(
                f"checkpoints: keep_last is {keep_last} and keep_best {keep_best}. Allowed: from 1 and from 0 on."
            )
        self._files = CheckpointFiles(store, prefix)
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._sign = 1.0 if mode == "max" else -1.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._lock = threading.Lock()  # guards all below
        self._idle = [Staging(), Staging()]
        self._waiting: _Wish | None = None
        self._work: Future[None] | None = None
        self._failure: TuneyardError | None = None
        self._replaced = False

    def save(self, state: Mapping[str, Any], *, step: int, epoch: int, metric: float | None) -> None:
        """Copy `state` and return; a background thread uploads and commits it, then prunes.

        If the save before is still under way, this one waits for it, and takes the place of an older one that waits.
        A failure in the background is logged at once and raised by `wait`. Raises `CheckpointError` where the state
        holds what a checkpoint cannot.
        """
        staging = self._take_staging()
        staged = False
        try:
            staging.stage(state)
            staged = True
        finally:
            with self._lock:
                if staged:
                    self._waiting = _Wish(staging, step, epoch, metric)
                else:
                    self._idle.append(staging)
                if self._waiting is not None and self._work is None:
                    self._work = self._thread.submit(self._drain)

    def wait(self) -> None:
        """Return when every save asked for is durable.

        Where the last one tried has failed, raises its `StoreError` (or `CheckpointError`), once.
        """
        with self._lock:
            work = self._work
        if work is not None:
            work.result()
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """`wait`, then end the background thread, also where `wait` raises. Reading stays possible."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def infos(self) -> list[CheckpointInfo]:
        """The committed checkpoints, by step; one whose manifest is damaged is left out with a warning."""
        return [self._info(*found) for found in _newest_attempts(self._files.readable())]

    def best(self) -> CheckpointInfo | None:
        """The checkpoint with the best metric, of equal ones the newest; None where none has a finite metric."""
        ranked = self._ranked(_newest_attempts(self._files.readable()))
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

    def sweep(self) -> int:
        """Delete the blobs that no manifest names (a save that was cut off leaves them); returns how many.

        Only for a run that no other process is saving: a save under way has blobs and no manifest yet.
        """
        self.wait()
        return self._files.delete_unnamed(self._files.keys("blobs/"))

    def _take_staging(self) -> Staging:
        with self._lock:
            if self._work is not None and self._work.done():
                self._work.result()  # the thread ended by a mistake of ours: let it be seen in the loop
            if self._waiting is None:
                return self._idle.pop()
            # Taken from the queue before it is written over, so that the thread cannot start on it meanwhile.
            staging, step = self._waiting.staging, self._waiting.step
            self._waiting = None
            if not self._replaced:
                self._replaced = True
                log.warning(
                    "Checkpoints come faster than the store takes them: that of step %d is left out for a newer one. "
                    "Raise checkpoint.every_epochs, or use a faster store than %s. (Said once.)",
                    step,
                    self._files.uri(""),
                )
            return staging

    def _drain(self) -> None:
        """The background thread: save what waits, until nothing does."""
        while True:
            with self._lock:
                wish, self._waiting = self._waiting, None
                if wish is None:
                    self._work = None
                    return
            failure: TuneyardError | None = None
            try:
                self._commit(wish)
            except TuneyardError as error:
                log.warning("The checkpoint of step %d was not saved: %s", wish.step, error)
                failure = error
            with self._lock:
                self._failure = failure
                self._idle.append(wish.staging)

    def _commit(self, wish: _Wish) -> None:
        parts = {name: self._files.upload(staged) for name, staged in wish.staging.parts.items()}
        saved_at = datetime.now(UTC).isoformat(timespec="seconds")
        place = self._files.commit(Manifest(wish.step, wish.epoch, wish.metric, saved_at, parts))
        try:
            self._prune(place)
        except StoreError as error:
            log.warning("The checkpoint of step %d is saved, but older ones were not pruned: %s", wish.step, error)

    def _prune(self, committed: Place) -> None:
        """Delete what is neither among the last nor among the best; the one just committed always stays.

        A blob goes only if a manifest named it that was deleted just now, and none that is left does: the blobs of
        another process, whose manifest is still to come, are never touched.
        """
        readable = self._files.readable()
        # A damaged checkpoint must not push a whole one out.
        whole = [found for found in _newest_attempts(readable) if found[0].key not in self._files.damaged]
        kept = {place.key for place, _ in whole[-self._keep_last :] + self._ranked(whole)[: self._keep_best]}
        kept |= {committed.key} | self._files.damaged
        dropped = [(place, manifest) for place, manifest in readable if place.key not in kept]
        for place, _ in dropped:
            self._files.delete(place.key)
        if dropped:
            self._files.delete_unnamed({key for _, manifest in dropped for key in manifest.blobs})

    def _ranked(self, found: list[Found]) -> list[Found]:
        """Those that have a score, the best first, of equal ones the newer first."""
        scored = [(score * self._sign, entry) for entry in found if (score := entry[1].score) is not None]
        scored.sort(key=lambda pair: (pair[0], pair[1][0]), reverse=True)
        return [entry for _, entry in scored]

    def _load(self, names: Sequence[str] | None, step: int | None) -> tuple[CheckpointInfo, dict[str, Any]] | None:
        problems: dict[Place, str] = {}
        for _ in range(_LISTINGS):
            places = [place for place in self._files.places(step) if place not in problems]
            for place in reversed(places):
                try:
                    manifest = self._files.read_manifest(place)
                    wanted = manifest.parts if names is None else names
                    return self._info(place, manifest), {name: self._files.read_part(name, manifest) for name in wanted}
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
            step=manifest.step,
            epoch=manifest.epoch,
            metric=manifest.metric,
            uri=self._files.uri(place.key),
            saved_at=manifest.saved_at,
            size_bytes=manifest.size_bytes,
        )


def _newest_attempts(found: list[Found]) -> list[Found]:
    """One for each step; `found` is sorted by step and attempt."""
    return list({place.step: (place, manifest) for place, manifest in found}.values())

"""The background thread that makes saves durable, and what the training loop does when it is slower than the saves."""

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, Literal

from tuneyard.trainers.checkpoints.committing import UploadProgress, Wish
from tuneyard.trainers.checkpoints.staging import Packed, Staging, pack_state
from tuneyard.trainers.errors import CheckpointError, FencedError, TuneyardError

log = logging.getLogger(__name__)


class Saver:
    """Copies states for one thread, that of the training loop, and has them committed in another.

    One staging buffer is enough while saves are durable before the next one comes. Where they are not, a second one
    takes the newest state, and an older one that waits there is left out: the newest wish wins. The best one by its
    metric, which the run is judged by in the end, gives way to a better one alone: while it waits, newer ones take a
    third buffer. Where `staging_bytes`, which all buffers together may hold, leaves no room, `save` waits instead.
    """

    def __init__(
        self, commit: Callable[[Wish, UploadProgress], object], *, staging_bytes: int | None, place: str,
        mode: Literal["min", "max"] = "max",
    ) -> None:  # fmt: skip
        self._commit = commit
        self._staging_bytes = staging_bytes
        self._place = place
        self._sign = 1.0 if mode == "max" else -1.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._changed = threading.Condition()  # guards all below
        self._idle: list[Staging] = []
        self._busy: Staging | None = None  # what the thread is uploading from
        self._waiting: list[Wish] = []  # by step: the best so far, if it waits, and the newest
        self._best = -math.inf  # the best metric that a save was asked for with; larger is better
        self._work: Future[None] | None = None
        self._progress = UploadProgress()
        self._failure: TuneyardError | None = None
        self._over: BaseException | None = None  # nothing is saved after this: a newer attempt, or a mistake of ours
        self._unsettled: Staging | None = None  # of the training loop's thread alone
        self._told: set[str] = set()
        self.left_out = 0
        self.durable_step: int | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes of states that are copied but not durable."""
        with self._changed:
            waiting = sum(wish.staging.size_bytes for wish in self._waiting)
            return waiting + (self._progress.left_bytes if self._work else 0)

    @property
    def total_bytes(self) -> int:
        """Bytes of the save that is under way, or was last."""
        return self._progress.total_bytes

    def save(
        self, state: Mapping[str, Any], *, step: int, epoch: int, metric: float | None, steady: Collection[int] = ()
    ) -> None:  # fmt: skip
        """Copy `state` and return; tensors at the addresses `steady` are perhaps not copied before `settle`.

        Raises `CheckpointError` where it cannot be copied or is larger than allowed, `FencedError` once and for all.
        """
        self.settle()  # what is steady now is so until the next `settle` alone
        packed = pack_state(state)
        score = self._score(metric)
        with self._changed:
            # Of equal ones the newer is the best, as for whoever prunes and for the record.
            self._best = max(self._best, score)
        staging = self._take_staging(packed, score)
        staged = False
        try:
            self._unsettled = staging
            staging.stage(packed, steady)
            staged = True
        finally:
            with self._changed:
                if staged:
                    self._waiting.append(Wish(staging, step, epoch, metric))
                else:
                    self._idle.append(staging)
                if self._waiting and self._work is None:
                    self._work = self._thread.submit(self._drain)

    def settle(self) -> None:
        """Return when the state of the last `save` is copied: from now on it may change."""
        if self._unsettled is not None:
            self._unsettled.settle()
            self._unsettled = None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return when every save asked for is durable, or has failed; False where that takes longer than `timeout_s`.

        Where the last one tried has failed, raises its error, once; a `FencedError` every time.
        """
        with self._changed:
            work = self._work
        if work is not None and wait_for([work], timeout_s).not_done:
            return False
        with self._changed:
            self._refuse_if_over()
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return True

    def end(self) -> None:
        """End the thread, after what it is at; but where `wait` ran out of time, without waiting any more."""
        with self._changed:
            busy = self._work is not None
        self._thread.shutdown(wait=not busy)

    def _score(self, metric: float | None) -> float:
        return metric * self._sign if metric is not None and math.isfinite(metric) else -math.inf

    def _take_staging(self, packed: Mapping[str, Packed], score: float) -> Staging:
        needed = sum(part.size_bytes for part in packed.values())
        with self._changed:
            while True:
                self._refuse_if_over()
                staging = self._free_staging(needed, score)
                if staging is not None:
                    return staging
                self._tell_once(
                    "Checkpoints come faster than the store takes them, and checkpoint.staging_gb has no room for "
                    "another copy: the training waits for the one under way. Raise checkpoint.every_epochs or "
                    "checkpoint.staging_gb, or use a faster store than %s. (Said once.)"
                )
                self._changed.wait()

    def _free_staging(self, needed: int, score: float) -> Staging | None:
        """A buffer to copy into; None where the one in use must be waited for."""
        self._leave_out(score)
        staging = self._idle.pop() if self._idle else Staging()
        for unused in self._idle:
            if not self._has_room(needed):
                unused.let_go()
        if self._has_room(needed):
            return staging
        staging.let_go()
        if self._busy is not None or self._waiting:
            return None
        assert self._staging_bytes is not None, "without a limit there is room"
        raise CheckpointError(
            f"checkpoint.staging_gb: the state of this run has {needed / 1e9:.3g} GB, and its copy may have "
            f"{self._staging_bytes / 1e9:.3g}. Allow more, or leave the key out."
        )

    def _leave_out(self, score: float) -> None:
        """Those that wait make way for a newer one of this score: all but the best, where the newer one is not it."""
        kept = [wish for wish in self._waiting if score < self._best == self._score(wish.metric)]
        given_up = [wish for wish in self._waiting if wish not in kept]
        if not given_up:
            return
        # Taken from the queue before it is written over, so that the thread cannot start on it meanwhile.
        self._waiting = kept
        self._idle += [wish.staging for wish in given_up]
        self.left_out += len(given_up)
        self._tell_once(
            "Checkpoints come faster than the store takes them: an older one that waits is left out for a newer "
            "one. Raise checkpoint.every_epochs, or use a faster store than %s. (Said once.)"
        )

    def _has_room(self, needed: int) -> bool:
        others = [*self._idle, *(wish.staging for wish in self._waiting), *([self._busy] if self._busy else [])]
        return self._staging_bytes is None or needed + sum(one.size_bytes for one in others) <= self._staging_bytes

    def _drain(self) -> None:
        """The background thread: save what waits, until nothing does."""
        try:
            while (wish := self._next_wish()) is not None:
                failure: TuneyardError | None = None
                try:
                    self._commit(wish, self._progress)
                except TuneyardError as error:
                    log.warning("The checkpoint of step %d was not saved: %s", wish.step, error)
                    failure = error
                self._wish_ended(wish, failure)
        except BaseException as error:  # noqa: BLE001  # a mistake of ours: let it be seen in the loop
            with self._changed:
                self._over, self._work = error, None
                self._changed.notify_all()

    def _next_wish(self) -> Wish | None:
        with self._changed:
            if not self._waiting or self._over:
                self._waiting, self._work = [], None
                return None
            wish = self._waiting.pop(0)
            self._busy = wish.staging
            self._progress = UploadProgress(wish.staging.size_bytes)
            return wish

    def _wish_ended(self, wish: Wish, failure: TuneyardError | None) -> None:
        with self._changed:
            self._failure = failure
            if failure is None:
                self.durable_step = wish.step
            if isinstance(failure, FencedError):
                self._over = failure
            self._busy = None
            self._idle.append(wish.staging)
            self._changed.notify_all()

    def _refuse_if_over(self) -> None:
        if self._over is not None:
            raise self._over

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning(text, self._place)

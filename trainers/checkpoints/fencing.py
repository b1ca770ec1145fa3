"""Fencing: of several attempts at one run, which are to be one after another, exactly one's checkpoints count.

    {prefix}claims/{n:06d}.json         attempt n exists, and all before it are over
    {prefix}claims/{n:06d}-from.json    what of the run's own it goes on from

An attempt is every time that a process begins to train a run: its start, a resume, each leg in a sweep. A process that
was cut off (its machine, its network, a debugger) cannot be reached to be stopped, and may come back. So a new attempt
first takes a number, then chooses the checkpoint that it goes on from, and writes down its line: attempt -> the last
step of that attempt which it builds on. Whatever earlier attempts commit beyond that, also later, is not of the line
and does not count. An attempt that builds on nothing of the run's own (it copies another run, or begins anew) counts
from its first checkpoint on: until then the run's older ones do.

Before each commit the attempt looks whether there is a newer number, and stops if so.
"""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from tuneyard.trainers.checkpoints.blobs import Pending
from tuneyard.trainers.checkpoints.collector import Over
from tuneyard.trainers.claims import Claims
from tuneyard.trainers.errors import (
    CheckpointError,
    ConfigError,
    DeleteRefusedError,
    FencedError,
    MissingKeyError,
    StoreError,
)
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_LOOKS = 5
"""A claim that was listed may be dropped by a newer attempt before it is read."""
_KEPT_CLAIMS = 32
_THREADS = 8
_LEAVES_S = 10.0
"""For a process that was killed a moment ago to be gone."""
_POLL_S = 0.1

Line = dict[int, float]
"""Attempt -> its last step that counts; infinity for the newest."""


class Onlooker:
    """The fence of somebody who reads a run's checkpoints and saves none. `prefix` is the run's."""

    attempt = 0

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._claims = Claims(store, f"{prefix}claims/")
        self._seen: dict[int, set[str]] | None = None
        self._head = 0
        self._line: Line = {}

    def check(self) -> None:
        """Nothing: who only reads may go on."""

    def counts(self, attempt: int, step: int) -> bool:
        """Is this checkpoint of the run's line? Where no attempt was ever claimed, every one is."""
        if self._seen is None or attempt > self._head:
            self.look()
        return not self._head or step <= self._line.get(attempt, -1)

    def is_over(self, attempt: int) -> bool:
        """Can nothing that counts come of this attempt any more, beside what it has committed?"""
        self.look()
        return attempt < self._head

    def look(self, seen: dict[int, set[str]] | None = None) -> None:
        """Find the run's line as it is now."""
        for _ in range(_LOOKS):
            self._seen = self._claims.look() if seen is None else seen
            seen = None
            try:
                self._head, self._line = self._newest_line()
                return
            except MissingKeyError:
                continue
        raise StoreError(f"{self._store.uri}/{self._prefix}claims/ changes faster than it can be read: try again.")

    def line_to(self, attempt: int, step: int) -> Line:
        """The line that a new attempt has, if it goes on from this checkpoint."""
        before = {one: min(last, step) for one, last in self._line.items() if one < attempt}
        return before | {attempt: step}

    def _newest_line(self) -> tuple[int, Line]:
        assert self._seen is not None, "it was looked"
        # The first attempt need not say anything: there was nothing to go on from.
        begun = sorted(number for number, marks in self._seen.items() if number == 1 or "from" in marks)
        while begun:
            number = begun.pop()
            line = self._read_line(number) if "from" in self._seen[number] else {}
            if line or not begun or self._has_saved(number):
                return number, line | {number: float("inf")}
        return 0, {}

    def _read_line(self, number: int) -> Line:
        content = self._claims.read_mark(number, "from")
        try:
            return {int(attempt): float(step) for attempt, step in json.loads(content)["line"]}
        except (ValueError, KeyError, TypeError) as error:
            key = self._claims.key(number, "from")
            raise CheckpointError(
                f"{self._store.uri}/{key} is damaged ({error!r}), so that it cannot be known which checkpoints count. "
                "Restore it from a copy (buckets keep versions). Without one, end whatever trains this run and delete "
                f"everything under {self._prefix}claims/: then every checkpoint counts."
            ) from error

    def _has_saved(self, number: int) -> bool:
        name = f"/manifest-{number:04d}-"
        return any(name in key for key in self._store.keys(f"{self._prefix}checkpoints/"))


class RunFence:
    """The fence of one attempt at a run: made by `claim_run`, in force from `begin` on."""

    def __init__(self, claims: Claims, attempt: int, before: Onlooker, run: str, seen: dict[int, set[str]]) -> None:
        self._claims, self._before, self._run, self._seen = claims, before, run, seen
        self._line: Line | None = None
        self.attempt = attempt

    def check(self) -> None:
        """Raise `FencedError` where a newer attempt has begun. Asks the store, once."""
        newest = max(self._claims.look(), default=0)
        if newest <= self.attempt:
            return
        holder = self._claims.holder(newest)
        raise FencedError(
            f"attempt {self.attempt} at run {self._run} was replaced by attempt {newest}"
            f"{f', {holder.name}' if holder else ''}: this process stops here. What it has saved since then does not"
            " count, and nothing of the run is lost."
        )

    def counts(self, attempt: int, step: int) -> bool:
        """Is this checkpoint of the line that this attempt is in, or, before it begins, of the one that it finds?"""
        if self._line is None:
            return self._before.counts(attempt, step)
        return attempt == self.attempt or step <= self._line.get(attempt, -1)

    def begin(self, base: tuple[int, int] | None) -> None:
        """Go on from this checkpoint of the run's own (attempt, step), or from nothing of its own.

        To be called before the first save.
        """
        line = {} if base is None else self._before.line_to(*base)
        if line or self.attempt > 1:
            content = json.dumps({"line": sorted(line.items())}, separators=(",", ":"))
            self._claims.mark(self.attempt, "from", content.encode())
        self._line = line
        if line and len(self._seen) > _KEPT_CLAIMS:
            self._forget()

    def end(self) -> None:
        """Say that this attempt is over, though its process goes on."""
        try:
            self._claims.mark(self.attempt, "ended")
        except StoreError as error:
            log.warning("It could not be noted that attempt %d at run %s is over: %s", self.attempt, self._run, error)

    def _forget(self) -> None:
        """Drop the claims before this one: its line says all that is still needed of them."""
        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="claims") as pool:
                list(pool.map(lambda claim: self._claims.drop(*claim), self._seen.items()))
        except DeleteRefusedError:
            log.info("Claims of earlier attempts stay: these credentials may not delete")
        except StoreError as error:
            log.warning("Claims of earlier attempts were not all deleted: %s", error)


def claim_run(store: Store, prefix: str, run: str, *, alone: bool) -> RunFence:
    """Begin a new attempt at the run under `prefix`: from now on those before it are over.

    `alone`: nobody above the processes of this run sees to it that one ends before the next begins. Then one that lives
    on this machine is not replaced: `ConfigError`. `run`: its name, for messages.
    """
    claims = Claims(store, f"{prefix}claims/")
    seen = claims.look()
    if alone and seen:
        _refuse_living(claims, seen, run)
    attempt = claims.take(seen)
    before = Onlooker(store, prefix)
    before.look(seen)
    return RunFence(claims, attempt, before, run, seen)


def held_by_another(store: Store, prefix: str) -> str | None:
    """Who trains the run under `prefix`, for messages; None where its newest attempt's process is gone, or unknown.

    For who speaks for an attempt whose processes have ended: what it would write may be the newer one's by now.
    """
    claims = Claims(store, f"{prefix}claims/")
    holder = claims.holder(max(claims.look(), default=0))
    if holder is None or not holder.machine or holder.state() == "gone":
        return None
    return holder.name


def replaced_in(store: Store, blob_prefix: str) -> Over:
    """For the collector of all runs below `blob_prefix`: which announced saves are of attempts that were replaced."""

    def is_over(pending: Pending) -> bool:
        return Onlooker(store, blob_prefix + pending.run).is_over(pending.attempt)

    return is_over


def _refuse_living(claims: Claims, seen: dict[int, set[str]], run: str) -> None:
    newest = max(seen)
    holder = None if "ended" in seen[newest] else claims.holder(newest)
    deadline: float | None = None
    while holder is not None and holder.state() == "lives" and not holder.is_this_process:
        if deadline is None:
            deadline = time.monotonic() + _LEAVES_S
            log.warning("Run %s is held by %s: waiting %.0f s for it to end.", run, holder.name, _LEAVES_S)
        if time.monotonic() > deadline:
            raise ConfigError(
                f"run {run} is being trained by {holder.name}. Let it end, or stop it (kill {holder.pid}: it saves"
                " and leaves), and resume then."
            )
        time.sleep(_POLL_S)

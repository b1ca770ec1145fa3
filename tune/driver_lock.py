"""One driver at a time for a sweep: who drives it holds a claim and shows that it lives.

    {sweep}drivers/{n:06d}.json         who drives
    {sweep}drivers/{n:06d}-beat.json    a count that goes up every few seconds while it does
    {sweep}drivers/{n:06d}-done.json    it does no more

A driver that was killed leaves no word. On its own machine, the processes tell that it is gone. From another machine
nothing can be known but whether the count still goes up. No clock is compared with another's.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tuneyard.trainers.claims import Claims
from tuneyard.trainers.errors import ConfigError, FencedError, MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a driver shows that it lives, and how long another watches for that before it takes over."""

    beat_s: float = 5.0
    watch_s: float = 20.0


class DriverLock:
    """The sweep, held by this process. `number` tells this driver from those before and after it."""

    def __init__(self, claims: Claims, number: int, sweep: str, patience: Patience) -> None:
        self.number = number
        self._claims, self._sweep, self._patience = claims, sweep, patience
        self._ended = threading.Event()
        self._over: FencedError | None = None
        self._beats = 0
        self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="driver-beat", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Does another driver hold the sweep by now, as far as this one has heard?"""
        return self._over is not None

    def check(self) -> None:
        """Raise `FencedError` where another driver holds the sweep: then nothing of it may be written here any more.

        Costs nothing while the beats go out in time, since nobody can have taken over then.
        """
        if self._over is None and time.monotonic() - self._beaten > self._patience.watch_s / 2:
            self._look()
        if self._over is not None:
            raise self._over

    def release(self) -> None:
        """Drive no more."""
        self._ended.set()
        self._thread.join()
        if self._over is None:
            try:
                self._claims.mark(self.number, "done")
            except StoreError as error:
                log.warning("It could not be noted that this process has done with %s: %s", self._sweep, error)

    def _work(self) -> None:
        while self._over is None:
            began = time.monotonic()
            try:
                self._beats += 1
                self._claims.mark(self.number, "beat", json.dumps({"beats": self._beats}).encode())
                self._look()
                self._beaten = began
            except StoreError as error:
                log.warning(
                    "The sweep's store does not answer (%s). If that lasts, another driver may take over.", error
                )
            if self._ended.wait(self._patience.beat_s):
                return

    def _look(self) -> None:
        newest = max(self._claims.look(), default=0)
        if newest > self.number and self._over is None:
            holder = self._claims.holder(newest)
            self._over = FencedError(
                f"{self._sweep} is driven by {holder.name if holder else 'another process'} now, which took it over "
                "since this process did not show that it lives. This one stops, and writes nothing more of it."
            )


PATIENCE = Patience()


@contextmanager
def driving(store: Store, prefix: str, sweep: str, patience: Patience = PATIENCE) -> Iterator[DriverLock]:
    """Hold the sweep under `prefix` while the block runs; `sweep` is its name, for messages.

    Raises `ConfigError` where another driver lives that holds it.
    """
    claims = Claims(store, f"{prefix}drivers/")
    lock = DriverLock(claims, _take(claims, sweep, patience), sweep, patience)
    try:
        yield lock
    finally:
        lock.release()


def _take(claims: Claims, sweep: str, patience: Patience) -> int:
    while True:
        seen = claims.look()
        newest = max(seen, default=0)
        if newest and "done" not in seen[newest]:
            _refuse_living(claims, newest, sweep, patience)
        # Where somebody else was faster, it is them who hold it now.
        if claims.try_to_take(newest + 1):
            for number in sorted(seen)[:-1]:
                claims.drop(number, seen[number])
            return newest + 1


def _refuse_living(claims: Claims, number: int, sweep: str, patience: Patience) -> None:
    holder = claims.holder(number)
    name = holder.name if holder else "another process"
    state = holder.state() if holder else "elsewhere"
    if state == "gone":
        return
    if state == "elsewhere":
        log.warning("%s is held by %s: waiting %.0f s to see whether that lives.", sweep, name, patience.watch_s)
        if not _beats(claims, number, patience.watch_s):
            return
    stop = f" (kill {holder.pid}: its trials save and leave)" if holder and state == "lives" else ""
    raise ConfigError(
        f"{sweep} is being driven by {name}, and can have one driver at a time. Wait until that ends, or stop it{stop};"
        " then resume or grow the sweep."
    )


def _beats(claims: Claims, number: int, watch_s: float) -> bool:
    """Does this driver show that it lives? Not where it says meanwhile that it has done."""
    deadline = time.monotonic() + watch_s
    first = _count(claims, number)
    while time.monotonic() < deadline:
        time.sleep(min(_POLL_S, watch_s))
        if _count(claims, number) != first:
            return "done" not in claims.look().get(number, set())
    return False


def _count(claims: Claims, number: int) -> bytes:
    try:
        return claims.read_mark(number, "beat")
    except MissingKeyError:
        return b""

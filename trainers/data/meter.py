"""Tells how far long work on bytes has come: to who reads the terminal, and to the processes that wait for it."""

import logging
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

_FIRST_S = 1.0
_EVERY_S = 10.0
_NOTED_EVERY_S = 0.5


class Meter:
    """A line after one second and then every ten: bytes, objects, rate and the time left. Safe for threads.

    what: the beginning of the line, such as "bringing s3://…". note: a file that gets the percentage.
    """

    def __init__(self, what: str, total_bytes: int, total_objects: int, note: Path) -> None:
        self._what, self._total, self._objects = what, total_bytes, total_objects
        self._note = note
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._due = self._began + _FIRST_S
        self._noted = 0.0
        self._done = self._here = self._done_objects = 0

    def add(self, count: int, objects: int, *, here: bool = False) -> None:
        """So many bytes, and objects, are done; `here`: they were done before, and say nothing about the rate."""
        with self._lock:
            self._done += count
            self._done_objects += objects
            self._here += count if here else 0

    def tick(self) -> None:
        """Say it, if it is time again. As a warning: those are shown where nobody has set logging up."""
        now = time.monotonic()
        if now - self._noted >= _NOTED_EVERY_S:
            self._noted = now
            self._note.write_text(f"{self._percent()} %")
        if now >= self._due:
            self._due = now + _EVERY_S
            log.warning("%s: %s", self._what, self.line(now))

    def end(self) -> None:
        """Say what it came to, if there was a line before."""
        self._note.unlink(missing_ok=True)
        now = time.monotonic()
        if self._due > self._began + _FIRST_S:
            log.warning(
                "%s: done, %s and %d objects in %s", self._what, amount(self._total), self._objects,
                clock(now - self._began),
            )  # fmt: skip

    def line(self, now: float) -> str:
        """How far it has come, at `now` of the monotonic clock."""
        with self._lock:
            done, fetched, objects = self._done, self._done - self._here, self._done_objects
        rate = fetched / max(now - self._began, 1e-9)
        left = f", {clock((self._total - done) / rate)} left" if fetched > 0 else ""
        return (
            f"{amount(done)} of {amount(self._total)}, {objects:,} of {self._objects:,} objects, "
            f"{rate / 1e6:.1f} MB/s{left}"
        )

    def _percent(self) -> int:
        return 100 * self._done // max(self._total, 1)


def amount(count: float) -> str:
    """Bytes as people read them."""
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if count >= pair[0]), (1e3, "kB"))
    return f"{count / unit:.2f} {name}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

"""Trials that share a machine get cores of their own: pinned threads are several times faster than crowded ones."""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO


class ClaimedCores:
    """Cores of this machine that this process holds, by file locks that the kernel releases when it ends, however.

    Where too few are free, `cores` is empty and nothing is pinned; `claim` tries again.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self._count = count
        self._folder = folder or Path(tempfile.gettempdir()) / f"tuneyard-cores-{os.getuid()}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._locks: list[IO[str]] = []
        self.cores: list[int] = []
        self.claim()

    def claim(self) -> bool:
        """Hold the cores, unless they are held already; False where too few are free now.

        A process that has just ended may still have been holding them a moment ago: try again later.
        """
        if self.cores:
            return True
        with (self._folder / "claiming").open("w") as turn:
            # One at a time: two that take some each could both end with too few.
            fcntl.flock(turn, fcntl.LOCK_EX)
            for core in sorted(os.sched_getaffinity(0)):
                if len(self.cores) == self._count:
                    break
                self._try(core)
            if len(self.cores) < self._count:
                self.release()
        return bool(self.cores)

    def pin(self) -> None:
        """Keep every thread of this process, and those to come, on the claimed cores."""
        if not self.cores:
            return
        for thread in Path("/proc/self/task").iterdir():
            # A thread may have ended since the folder was listed.
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), self.cores)

    def release(self) -> None:
        """Let others have the cores."""
        for lock in self._locks:
            lock.close()
        self._locks, self.cores = [], []

    def _try(self, core: int) -> None:
        lock = (self._folder / f"core-{core}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return
        self._locks.append(lock)
        self.cores.append(core)

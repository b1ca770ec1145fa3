"""Trials that share a machine get cores of their own: pinned threads are several times faster than crowded ones."""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO


class ClaimedCores:
    """Cores of this machine that this process holds, by file locks that the kernel releases when it ends, however.

    Where too few are free, `cores` is empty and nothing is pinned.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"tuneyard-cores-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._locks: list[IO[str]] = []
        self.cores: list[int] = []
        for core in sorted(os.sched_getaffinity(0)):
            if len(self.cores) == count:
                break
            lock = (folder / f"core-{core}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._locks.append(lock)
            self.cores.append(core)
        if len(self.cores) < count:
            self.release()

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

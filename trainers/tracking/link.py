"""The training process's connection to the tracking process: a queue, a pipe, and the two threads that serve them."""

import atexit
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Any

from tuneyard.trainers.tracking.process import Message, write_frame

_EXIT_GRACE_S = 2.0  # how long a process that ends without `close` hands over what is queued


class Link:
    """The tracking process, as the training process sees it. Only `close` waits."""

    def __init__(self, project_dir: str) -> None:
        """Start the process; it looks for Comet's settings in `project_dir`."""
        self._messages: deque[tuple[Message, bytes] | None] = deque()
        self._reports: deque[dict[str, Any]] = deque()
        self._wake = threading.Condition()
        self.backlog_bytes = 0
        self.broken = False
        self.pid = 0
        # A file and not a pipe: nobody has to read it, and it is there when the process has died.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- open as long as the process is
        self._process = subprocess.Popen(
            # -P: a user's own `json.py` in the working folder must not be imported instead of Python's.
            [sys.executable, "-P", "-m", "tuneyard.trainers.tracking.process", project_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # A group of its own, so that Ctrl-C does not reach it. Not a session of its own: Linux shares the cores
            # between sessions first, so that its low priority would count for nothing.
            process_group=0,
        )
        self._writer = threading.Thread(target=self._write, name="tracking-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="tracking-reader", daemon=True)
        self._writer.start()
        self._reader.start()
        atexit.register(self._leave)

    def send(self, message: Message, blob: bytes) -> None:
        """Queue one message; dropped when the process is dead."""
        if self.broken:
            return
        with self._wake:
            self.backlog_bytes += len(blob)
            self._messages.append((message, blob))
            self._wake.notify()

    def reports(self) -> list[dict[str, Any]]:
        """The reports since the last call."""
        return [self._reports.popleft() for _ in range(len(self._reports))]

    def close(self, timeout_s: float, progress: Callable[[str], None] | None) -> bool:
        """End the pipe behind the last message and wait for the process to end; False when the time was over."""
        self._end()
        atexit.unregister(self._leave)
        deadline = time.monotonic() + timeout_s
        while self._reader.is_alive() and (left_s := deadline - time.monotonic()) > 0:
            self._reader.join(min(1.0, left_s))
            if progress is not None and self._reader.is_alive():
                progress("waiting for the trackers to take the rest")
        return not self._reader.is_alive()

    def _leave(self) -> None:
        # Nobody called `close`: hand over what is queued, and let the process finish by itself.
        self._end()
        self._writer.join(_EXIT_GRACE_S)

    def _end(self) -> None:
        with self._wake:
            self._messages.append(None)
            self._wake.notify()

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while (item := self._next()) is not None:
                write_frame(pipe, *item)
                self.backlog_bytes -= len(item[1])
            pipe.close()
        except OSError:
            self.broken = True  # the reader says why
            self._messages.clear()

    def _next(self) -> tuple[Message, bytes] | None:
        with self._wake:
            while not self._messages:
                self._wake.wait()
            return self._messages.popleft()

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        self._process.wait()  # it forks the one that does the work, and leaves
        done = False
        for line in pipe:
            report = json.loads(line)
            self.pid = report.get("pid", self.pid)
            done = report.get("done", False)
            self._reports.append(report)
        pipe.close()
        if not done:
            self.broken = True
            self._reports.append({"problem": f"the tracking process died; the run goes on without it. {self._last()}"})
        self._errors.close()

    def _last(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]

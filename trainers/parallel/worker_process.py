"""One worker process as its supervisor holds it: started, ordered, listened to, and ended."""

import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from tuneyard.trainers.parallel.orders import Answer, Order

_LAST_LINES = 15


class WorkerProcess:
    """A process of `parallel/worker.py`. Must be made in the main thread: it dies with the thread that made it.

    Attributes:
        answers: what it has answered so far, one for each run.
        ready: has it prepared itself, as a spare?
    """

    def __init__(self, threads: int, errors: Path) -> None:
        self.errors = errors
        self.answers: list[Answer] = []
        self.ready = False
        self._unread = b""
        self._answers_fd, given_fd = os.pipe()
        os.set_blocking(self._answers_fd, False)
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuneyard.trainers.parallel.worker", str(given_fd), str(os.getpid())],
                env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdin=subprocess.PIPE, stderr=stderr,
                pass_fds=(given_fd,),
                # A session of its own: the terminal's Ctrl-C reaches the parent alone, which passes it on once.
                start_new_session=True,
            )  # fmt: skip
        os.close(given_fd)
        # Where the system has no such thing (it is Linux's), an end is seen when the supervisor looks the next time.
        self._end_fd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """As Popen.poll: None while it runs, below zero where a signal has ended it."""
        return self._process.poll()

    def order(self, order: Order) -> None:
        """Send an order. Where the process is gone, its status says so."""
        assert self._process.stdin is not None, "asked for above"
        try:
            self._process.stdin.write(order.line())
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have the selector wake when this process answers or ends."""
        selector.register(self._answers_fd, selectors.EVENT_READ)
        if self._end_fd is not None:
            selector.register(self._end_fd, selectors.EVENT_READ)

    def unwatch(self, selector: selectors.BaseSelector) -> None:
        """The reverse; harmless where it was not watched."""
        for descriptor in (self._answers_fd, self._end_fd):
            if descriptor is not None and descriptor in selector.get_map():
                selector.unregister(descriptor)

    def listen(self) -> None:
        """Take what it has said since the last time."""
        while True:
            try:
                found = os.read(self._answers_fd, 65536)
            except BlockingIOError:
                break
            if not found:
                break
            self._unread += found
        *lines, self._unread = self._unread.split(b"\n")
        for answer in map(Answer.model_validate_json, lines):
            if answer.how == "ready":
                self.ready = True
            else:
                self.answers.append(answer)

    def stopped(self) -> bool:
        """Does it stand still, by SIGSTOP or a debugger?"""
        try:
            return bool(psutil.Process(self.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
        except psutil.NoSuchProcess:
            return False

    def cpu_s(self) -> float:
        """Processor time of this process and those that it has started, as far as they are there."""
        try:
            own = psutil.Process(self.pid)
            return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0.0

    def terminate(self) -> None:
        """Ask it to save and leave."""
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, if it has not ended, and do not wait for that. SIGKILL reaches what is stopped, too."""
        if self.status is None:
            self._process.kill()

    def dismiss(self) -> None:
        """No more orders: it ends by itself, once its trackers are done."""
        assert self._process.stdin is not None, "asked for above"
        self._process.stdin.close()

    def end(self) -> None:
        """The same; returns when it is gone. It cannot be watched or heard any more."""
        self.kill()
        self._process.wait()
        self._close()

    def wait(self, timeout_s: float) -> None:
        """For a dismissed process to end; it is ended where it does not."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.end()

    def said(self) -> str:
        """All that it has written to stderr."""
        return self.errors.read_text(errors="replace")

    def last_lines(self) -> str:
        """The end of that."""
        return "\n".join(self.said().strip().splitlines()[-_LAST_LINES:]) or "it said nothing"

    def _close(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        for descriptor in (self._answers_fd, self._end_fd):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._answers_fd, self._end_fd = -1, None

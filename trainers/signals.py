"""SIGINT and SIGTERM as a wish to stop: the loop saves and leaves, in time; a second SIGINT leaves at once."""

import os
import signal
import threading
from collections.abc import Callable
from select import select
from types import FrameType, TracebackType
from typing import Any, Self

from tuneyard.trainers.errors import InterruptedRunError

SAVING = "Stopping: saving a checkpoint first. Ctrl-C again leaves at once."
_STOPPED = 130
_STDERR = 2
"""The descriptor itself: a handler must not wait for a lock that Python's own stream may hold."""


class LateError(InterruptedRunError):
    """The run was asked to stop, and could not save in the time that it had; the text names what is durable."""


class Deadline:
    """Ends this process where it has not left `within_s` after a signal: some wait in it has no end.

    `last_words` are written to stderr before. The exit status is that of a run that was stopped.
    """

    def __init__(self, within_s: float, last_words: Callable[[], str]) -> None:
        self._within_s, self._last_words = within_s, last_words
        self._asked, self._ask = os.pipe()
        self._left, self._leave = os.pipe()
        # Started ahead: a signal's handler must not take the locks that starting a thread takes.
        self._thread = threading.Thread(target=self._watch, name="leave-in-time", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A signal has come; for its handler."""
        os.write(self._ask, b"!")

    def close(self) -> None:
        """The run has ended."""
        os.close(self._leave)
        self._thread.join()
        for descriptor in (self._asked, self._ask, self._left):
            os.close(descriptor)

    def _watch(self) -> None:
        begun, _, _ = select([self._asked, self._left], [], [])
        if self._left in begun or select([self._left], [], [], self._within_s)[0]:
            return
        os.write(_STDERR, f"\n{self._last_words()}\n".encode())
        os._exit(_STOPPED)


class StopSignals:
    """While active, the first SIGINT or SIGTERM only sets `received`; a second SIGINT ends the process with 130.

    Handlers can be set in the main thread alone; elsewhere (inside a Ray actor) this does nothing.
    """

    def __init__(self, message: str = SAVING, deadline: Callable[[], Deadline] | None = None) -> None:
        """`message` is written to stderr at the first signal, unless it is empty. `deadline`: made while active."""
        self._message = message
        self._make_deadline = deadline
        self._deadline: Deadline | None = None
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._deadline = self._make_deadline() if self._make_deadline is not None else None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._deadline is not None:
            self._deadline.close()
            self._deadline = None

    def asked(self) -> bool:
        """Has a signal come?"""
        return self.received is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            # No clean-up: the user has asked twice, and the store never holds half a checkpoint.
            os.write(_STDERR, b"\nLeaving at once; nothing was saved since the last checkpoint.\n")
            os._exit(_STOPPED)
        if self.received is None and self._deadline is not None:
            self._deadline.begin()
        self.received = signal.Signals(number)
        if self._message:
            os.write(_STDERR, f"\n{self._message}\n".encode())

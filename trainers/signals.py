"""SIGINT and SIGTERM as a wish to stop: the loop saves and leaves; a second SIGINT leaves at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SAVING = "Stopping: saving a checkpoint first. Ctrl-C again leaves at once."
_STDERR = 2
"""The descriptor itself: a handler must not wait for a lock that Python's own stream may hold."""


class StopSignals:
    """While active, the first SIGINT or SIGTERM only sets `received`; a second SIGINT ends the process with 130.

    Handlers can be set in the main thread alone; elsewhere (inside a Ray actor) this does nothing.
    """

    def __init__(self, message: str = SAVING) -> None:
        """`message` is written to stderr at the first signal, unless it is empty."""
        self._message = message
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Has a signal come?"""
        return self.received is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            # No clean-up: the user has asked twice, and the store never holds half a checkpoint.
            os.write(_STDERR, b"\nLeaving at once; nothing was saved since the last checkpoint.\n")
            os._exit(130)
        self.received = signal.Signals(number)
        if self._message:
            os.write(_STDERR, f"\n{self._message}\n".encode())

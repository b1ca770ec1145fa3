"""Waiting in tests for what other processes and threads do."""

import time
from collections.abc import Callable
from typing import Literal, TypeVar

Value = TypeVar("Value")


def wait_until(true: Callable[[], Value | Literal[False] | None], within_s: float = 90.0) -> Value:
    """Look again and again; what it was when it was true for the first time, or an AssertionError after so long."""
    deadline = time.monotonic() + within_s
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
    return value

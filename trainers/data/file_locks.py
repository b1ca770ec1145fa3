"""Locks between processes, on files: the system lets them go with the process, however that ends (flock(2))."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_AGAIN_S = 0.05


@contextmanager
def exclusive(path: Path, waiting: Callable[[], Callable[[], None]] | None = None) -> Iterator[None]:
    """Hold this file, made if need be, alone. The file goes with its lock.

    waiting: called when somebody else holds it; what it returns is then called again and again until they let go.
    """
    handle = _take(path, waiting)
    try:
        yield
    finally:
        # While it is still held: who waits for it sees that it has gone, and makes another.
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path, waiting: Callable[[], Callable[[], None]] | None) -> int:
    tell: Callable[[], None] | None = None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            while not _try(handle, fcntl.LOCK_EX):
                tell = tell or (waiting() if waiting else None)
                if tell:
                    tell()
                time.sleep(_LOOK_AGAIN_S)
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def hold_shared(path: Path) -> int:
    """Hold this file together with all others that hold it so; closing the handle lets it go.

    Raises FileNotFoundError where there is none, also where it was removed while we waited for it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if not _is_at(handle, path):
            raise FileNotFoundError(path)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether nobody holds this file, nor comes to hold it before this ends; true also where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _try(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Is the open file still the one that has this name?"""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False

"""The processes that belong to a node, found by their descent and by a mark in their environment, never by name."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tuneyard.cluster.node.environment import MARK

POLL_S = 0.1


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    found: list[int] = []
    to_look = [pid]
    while to_look:
        children = _children(to_look.pop())
        found += children
        to_look += children
    return found


def marked(folder: Path) -> list[int]:
    """What runs under the Ray of this folder's node, without this process and its ancestors."""
    mark = f"{MARK}={folder}".encode()
    ours = _ancestors(os.getpid())
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) not in ours:
                found.append(int(path.name))
    return found


def end(find: Callable[[], list[int]], within_s: float) -> list[int]:
    """End all that `find` finds, again and again, since what is ending may start more: SIGTERM, then SIGKILL.

    Returns what is left 5 s after the first SIGKILL.
    """
    began = time.monotonic()
    asked = set[int]()
    while found := find():
        late = time.monotonic() - began
        if late > within_s + 5.0:
            return found
        for pid in found:
            if late < within_s and pid in asked:
                continue
            asked.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if late < within_s else signal.SIGKILL)
        time.sleep(POLL_S)
    return []


def child_of(pid: int, program: str) -> int | None:
    """A living child of a process that runs a program file of this name."""
    for child in _children(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/exe").readlink().name == program:
                return child
    return None


def arguments_of(pid: int) -> dict[str, str]:
    """The `--name=value` arguments of a process; empty where it has ended."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    return {}


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _ancestors(pid: int) -> set[int]:
    found = {pid}
    while pid > 1:
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])  # the name before it may hold anything
        found.add(pid)
    return found

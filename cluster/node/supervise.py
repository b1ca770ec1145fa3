"""A service manager for machines without systemd: it runs `serve`, again when it ends, and leaves nothing behind."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tuneyard.cluster.node.processes import descendants, end

PR_SET_CHILD_SUBREAPER = 36
PAUSE_S = 5.0
STOP_S = 75.0
"""How long `serve` may take to end Ray."""
POLL_S = 0.5

_log = logging.getLogger(__name__)


def serve_command(folder: Path) -> list[str]:
    """The command line of `serve`."""
    return [sys.executable, "-m", "tuneyard.cluster.node", "serve", "--folder", str(folder)]


def supervise(folder: Path) -> None:
    """Run `serve` until SIGTERM.

    All processes of the node descend from this one, as the orphans among them become its children (prctl(2),
    PR_SET_CHILD_SUBREAPER). So it can end each of them when `serve` was killed.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = [sys.executable, "-m", "tuneyard.cluster.node.with_parent", str(os.getpid()), *serve_command(folder)]
    while not stop.is_set():
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/")
        while not _ended(child) and not stop.wait(POLL_S):
            pass
        if stop.is_set():
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
        end(_others, 0.0)
        if not stop.is_set():
            _log.warning("serve has ended with %s; it is started again in %.0f s", child.returncode, PAUSE_S)
            stop.wait(PAUSE_S)


def _ended(child: subprocess.Popen[bytes]) -> bool:
    """Has the child ended? Orphans that have are collected on the way."""
    done = child.poll() is not None
    if not done:
        _collect(keep=child.pid)
    return done


def _others() -> list[int]:
    _collect(keep=0)
    return descendants(os.getpid())


def _collect(keep: int) -> None:
    """Take the exit status of every child that has ended, but of `keep`: subprocess wants that one itself."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid == keep:
                return
            os.waitpid(found.si_pid, 0)

"""What the service of a node runs: Ray, started again whenever it ends, and the watchers beside it."""

import contextlib
import fcntl
import logging
import logging.handlers
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.environment import connection_environment, fetch_token, ray_environment
from tuneyard.cluster.node.folder import NodeFolder, State
from tuneyard.cluster.node.processes import end, marked
from tuneyard.cluster.node.ray_process import RayProcess, fatal_error, head_answers, own_address, ray_command
from tuneyard.cluster.node.watchers import start_watchers
from tuneyard.cluster.private_files import make_private_folder

POLL_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""Ray that ran for so long was well: the pauses between starts begin anew."""
LEFTOVERS_S = 5.0
SESSIONS_KEPT = 3
LOG_BYTES = 5_000_000

_log = logging.getLogger(__name__)


def serve(config: NodeConfig, folder: NodeFolder) -> None:
    """Run this node until SIGTERM, in the foreground.

    Raises:
        ClusterError: it runs already, or a secret or an address is missing.
    """
    folder.make()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with _alone(folder):
        _log_to(folder)
        _raise_limits()
        folder.drained.unlink(missing_ok=True)
        folder.write_state("starting")
        try:
            _serve(config, folder, stop)
        except ClusterError as error:
            folder.write_state("failing", str(error))
            raise
        folder.write_state("down")


def _serve(config: NodeConfig, folder: NodeFolder, stop: threading.Event) -> None:
    fetch_token(config, folder)
    # For the watchers, which are clients of Ray in this process.
    os.environ.update(connection_environment(config, folder))
    start_watchers(config, folder.path)
    pause_s, starts = FIRST_PAUSE_S, 0
    while not stop.is_set():
        if config.role == "worker" and not _wait_for_head(config, folder, stop, starts):
            break
        starts += 1
        began = time.monotonic()
        said = _run_ray(config, folder, stop, starts)
        if stop.is_set():
            break
        if folder.drained.exists():
            _log.info("the node was drained, and stays away until its service is started again")
            folder.write_state("drained", folder.drained.read_text().strip(), starts=starts)
            stop.wait()
            break
        pause_s = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else min(2 * pause_s, LONGEST_PAUSE_S)
        _log.warning("Ray has ended; it is started again in %.0f s", pause_s)
        folder.write_state("failing", said, starts=starts)
        stop.wait(pause_s)


def _run_ray(config: NodeConfig, folder: NodeFolder, stop: threading.Event, starts: int) -> str:
    """Run Ray until it ends or is to stop; returns its last words. Nothing of it is left afterwards."""
    folder.write_state("starting", starts=starts)
    temp = folder.ray_temp(config)
    make_private_folder(temp)  # Ray itself would make it everybody's to read and write
    _remove_old_sessions(temp)
    command = ray_command(config, folder, own_address(config), folder.count_start())
    ray = RayProcess(command, ray_environment(config, folder), agent_port=config.gcs_port + 1)
    told = None
    try:
        while ray.alive and not stop.wait(POLL_S):
            ray.tell_agents_port()
            now: tuple[State, str] = ("up", "") if ray.up else ("starting", ray.last_words)
            if now != told:
                told = now
                folder.write_state(*now, starts=starts)
    finally:
        ray.end()
        # What a job started may outlive Ray, and would hold the GPU's memory.
        left = end(lambda: marked(folder.path), LEFTOVERS_S)
        if left:
            _log.error("processes %s do not end, not even by SIGKILL", left)
    return "\n".join(filter(None, [ray.last_words, "" if ray.up else fatal_error(temp)]))


def _wait_for_head(config: NodeConfig, folder: NodeFolder, stop: threading.Event, starts: int) -> bool:
    """Wait until the head's GCS listens. False: stopped meanwhile."""
    told = None
    while (why := head_answers(config)) is not None:
        if why != told:
            told = why
            place = f"{config.head}:{config.gcs_port}"
            _log.warning("waiting for the head: %s: %s", place, why)
            folder.write_state("waiting", f"the head does not answer at {place}: {why}", starts=starts)
        if stop.wait(2.0):
            return False
    return True


@contextlib.contextmanager
def _alone(folder: NodeFolder) -> Iterator[None]:
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClusterError(f"{folder.path}: this node's program runs already. Stop it with `stop`.") from error
        yield


def is_served(folder: NodeFolder) -> bool:
    """Does this node's `serve` run?"""
    try:
        with folder.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _log_to(folder: NodeFolder) -> None:
    """logs/service.log: what this program does and what `ray start` prints, with the times, in UTC."""
    handler = logging.handlers.RotatingFileHandler(folder.logs / "service.log", maxBytes=LOG_BYTES, backupCount=2)
    form = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler.setFormatter(form)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _raise_limits() -> None:
    """Each worker and connection of Ray holds files: as many as this process may ask for."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _remove_old_sessions(temp: Path) -> None:
    """Every start of Ray makes a folder with its logs; the newest are kept."""
    sessions = sorted((path for path in temp.glob("session_*") if not path.is_symlink()), key=lambda path: path.name)
    for path in sessions[: -SESSIONS_KEPT + 1]:
        shutil.rmtree(path, ignore_errors=True)

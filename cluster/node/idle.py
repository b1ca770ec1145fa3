"""Machines without work leave, so that nobody pays for them: workers after `idle_minutes`, the head after the last."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.gcs import BusyError, Gcs, RayNode, Reason, connect, own_node

POLL_S = 20.0

log = logging.getLogger(__name__)


class Head(Protocol):
    """What is asked of Ray's head; `Gcs` is one."""

    def nodes(self) -> list[RayNode]: ...

    def running_jobs(self) -> int: ...

    def drain(self, node_id: str, reason: Reason, message: str, within_s: float | None = None) -> None: ...


class IdleWorker:
    """Lets a worker leave that has had no work for so long, by Ray's own count."""

    def __init__(self, config: NodeConfig, place: NodeFolder, minutes: float) -> None:
        self._config, self._place, self._minutes = config, place, minutes

    def leaves(self, head: Head) -> bool:
        """Has it left? Work that came in this moment keeps it. Raises ClusterError where the head does not answer."""
        node = own_node(head.nodes(), self._config)
        if node is None or not node.alive:
            # Its Ray has ended; for good where it was drained, by hand for example: then it only costs money.
            return self._place.drained.exists()
        if node.state != "idle" or node.idle_s < 60.0 * self._minutes:
            return False
        reason = f"no work for {node.idle_s / 60:.0f} minutes"
        self._place.mark_drained(reason)
        try:
            head.drain(node.node_id, "idle", reason)
        except ClusterError as error:
            self._place.drained.unlink(missing_ok=True)
            if isinstance(error, BusyError):
                return False
            raise
        log.info("Leaving: %s", reason)
        return True


class IdleHead:
    """Lets the head leave when no worker is there and no job has run for so long.

    clock: seconds. Only what was looked at counts: a head that was asleep has not been idle.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._minutes, self._clock = minutes, clock
        self._since: float | None = None

    def leaves(self, head: Head) -> bool:
        """Is it to stop? Raises ClusterError where Ray here does not answer; such time does not count."""
        since, self._since = self._since, None
        quiet = not any(node.alive and not node.head for node in head.nodes()) and head.running_jobs() == 0
        if not quiet:
            return False
        self._since = self._clock() if since is None else since
        return self._clock() - self._since >= 60.0 * self._minutes


class IdleWatch(threading.Thread):
    """Asks again and again, and ends the machine when it is to leave.

    end: ends the machine; raises ClusterError to be called again.
    """

    def __init__(
        self, config: NodeConfig, folder: Path, who: IdleWorker | IdleHead, end: Callable[[], None],
        poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        super().__init__(name="idle-watch", daemon=True)
        self._config, self._place, self._who, self._end, self._poll_s = config, NodeFolder(folder), who, end, poll_s
        self._gcs: Gcs | None = None
        self._complained = ""

    def run(self) -> None:
        """Until the machine is told to end."""
        while not self._left():
            time.sleep(self._poll_s)

    def _left(self) -> bool:
        try:
            self._gcs = self._gcs or connect(self._config, self._place)
            if not self._who.leaves(self._gcs):
                return False
            self._end()
        except ClusterError as error:
            if str(error) != self._complained:
                log.warning("Whether this machine is idle, or how to end it: %s", error)
            self._complained = str(error)
            return False
        log.warning("This machine ends: it has no work.")
        return True

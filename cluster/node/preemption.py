"""A machine that is being taken away: the notice is found, the node drained, so that its trials save and leave.

Two minutes before a spot instance is taken, and before an autoscaling group ends one, the metadata service says so.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.gcs import connect, own_node
from tuneyard.cluster.node.metadata import Metadata, spot_deadline

POLL_S = 5.0
"""As often as AWS advises."""
RETRY_S = 2.0

log = logging.getLogger(__name__)


class AwayError(ClusterError):
    """The node is not among those of the cluster."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The machine is to go. within_s: the time that is left; None: nobody said.

    of_group: an autoscaling group ends it, and waits to hear that it may.
    """

    reason: str
    within_s: float | None
    of_group: bool = False


def drain_here(
    config: NodeConfig, folder: Path, within_s: float | None = None, reason: str = "drained by hand"
) -> None:
    """Have this node given no new work; sweeps' trials save, leave and go on elsewhere, and Ray here ends after them.

    Ray is not started again before the service is. Returns when the head has taken the order. Told twice the newer
    time counts.

    Raises:
        AwayError: the node has not joined, or has left already.
        ClusterError: this is the head, or the head does not answer.
    """
    if config.role == "head":
        raise ClusterError(
            "The head cannot be drained: its jobs, which drive the sweeps, run there. Stop them (tuneyard stop), and "
            "resume their sweeps after the head is back."
        )
    place = NodeFolder(folder)
    gcs = connect(config, place)
    try:
        node = own_node(gcs.nodes(), config)
        if node is None or not node.alive:
            raise AwayError(f"{config.node_name} is not in cluster {config.cluster} now: there is nothing to drain.")
        before = place.drained.exists()
        # First: a node without work ends at once.
        place.mark_drained(reason)
        try:
            gcs.drain(node.node_id, "preemption", reason, within_s)
        except ClusterError:
            if not before:
                place.drained.unlink(missing_ok=True)
            raise
    finally:
        gcs.close()
    log.info("Draining: %s%s", reason, "" if within_s is None else f", within {within_s:.0f} s")


class Notices:
    """Reads the notices; each is told once. A rebalance recommendation alone is only noted: it has no date."""

    def __init__(self, metadata: Metadata, now: Callable[[], float] = time.time) -> None:
        self._metadata, self._now = metadata, now
        self._told = self._rebalance = False

    def look(self) -> Notice | None:
        """A notice that has come since the last look. Raises ClusterError where the service does not answer."""
        if self._told:
            return None
        notice = self._spot() or self._group()
        self._told = notice is not None
        if notice is None and not self._rebalance:
            self._rebalance = self._metadata.get("events/recommendations/rebalance") is not None
            if self._rebalance:
                log.warning("EC2 says that this spot instance is likely to be taken soon. Work goes on until it is.")
        return notice

    def _spot(self) -> Notice | None:
        text = self._metadata.get("spot/instance-action")
        if text is None:
            return None
        when = spot_deadline(text)
        clock = when.astimezone(datetime.UTC).strftime("%H:%M:%S")
        return Notice(f"EC2 takes this spot instance at {clock} UTC", max(when.timestamp() - self._now(), 1.0))

    def _group(self) -> Notice | None:
        if self._metadata.get("autoscaling/target-lifecycle-state") != "Terminated":
            return None
        # How long the group waits is its own matter; what leaves does so in the time that its experiment gives it.
        return Notice("the autoscaling group ends this instance", None, of_group=True)


class PreemptionWatch(threading.Thread):
    """Looks for a notice as long as the service runs, and drains the node when one has come.

    Args:
        drain: takes the seconds and the reason; raises ClusterError to be called again.
        release: tells the autoscaling group that the machine may end, once Ray here has.
    """

    def __init__(
        self, notices: Notices, drain: Callable[[float | None, str], None], release: Callable[[], None],
        poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        super().__init__(name="preemption-watch", daemon=True)
        self._notices, self._drain, self._release, self._poll_s = notices, drain, release, poll_s
        self._complained = False

    def run(self) -> None:
        """For ever."""
        while True:
            notice = self._look()
            if notice is not None:
                log.warning("Notice: %s", notice.reason)
                self._obey(notice)
            time.sleep(self._poll_s)

    def _look(self) -> Notice | None:
        try:
            notice = self._notices.look()
        except ClusterError as error:
            if not self._complained:
                log.warning("%s. Until it does, no notice of a preemption can be seen.", error)
            self._complained = True
            return None
        self._complained = False
        return notice

    def _obey(self, notice: Notice) -> None:
        began = time.monotonic()
        while True:
            left_s = None if notice.within_s is None else notice.within_s - (time.monotonic() - began)
            if left_s is not None and left_s <= 0:
                log.error("This node could not be drained in time.")
                return
            try:
                self._drain(left_s, notice.reason)
                break
            except ClusterError as error:
                log.warning("The node is not drained yet: %s", error)
                time.sleep(RETRY_S)
        if notice.of_group:
            self._release()

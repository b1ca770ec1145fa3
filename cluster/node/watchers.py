"""What a node watches beside its Ray: notices that the machine is taken, and whether it still has work."""

import logging
import threading
import time
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.gcs import connect, load, own_node
from tuneyard.cluster.node.idle import IdleHead, IdleWatch, IdleWorker
from tuneyard.cluster.node.metadata import Metadata
from tuneyard.cluster.node.preemption import AwayError, Notices, PreemptionWatch, drain_here

LEAVE_S = 600.0
"""At most: for Ray here to end after the node was drained, before the autoscaling group hears that the machine may."""
POLL_S = 2.0

log = logging.getLogger(__name__)


def start_watchers(config: NodeConfig, folder: Path) -> list[threading.Thread]:
    """Start what this node needs: in a cloud the watches for notices and idleness; a machine of one's own needs none.

    The threads end with the process.
    """
    if config.kind != "aws":
        return []
    metadata = Metadata()
    watches: list[threading.Thread] = []
    if config.role == "worker":

        def drain(within_s: float | None, reason: str) -> None:
            try:
                drain_here(config, folder, within_s, reason)
            except AwayError:
                if not NodeFolder(folder).drained.exists():  # else it has left before: by hand, or for want of work
                    raise

        threading.Thread(target=load, name="load-ray", daemon=True).start()
        watches.append(PreemptionWatch(Notices(metadata), drain, lambda: _release(config, folder, metadata)))
    idle = _idle_watch(config, folder, metadata)
    watches += [idle] if idle is not None else []
    for watch in watches:
        watch.start()
    return watches


def _idle_watch(config: NodeConfig, folder: Path, metadata: Metadata) -> threading.Thread | None:
    if config.role == "head":
        if config.head_idle_minutes is None:
            return None
        return IdleWatch(config, folder, IdleHead(config.head_idle_minutes), lambda: _stop(config, metadata))
    if config.idle_minutes is None:
        return None
    worker = IdleWorker(config, NodeFolder(folder), config.idle_minutes)
    return IdleWatch(config, folder, worker, lambda: _end(config, metadata))


def _end(config: NodeConfig, metadata: Metadata) -> None:
    """End this worker's machine, and let its group count one less."""
    from tuneyard.cluster.aws import end_instance

    end_instance(metadata.instance_id(), config.region, in_group=config.autoscaling_group is not None)


def _stop(config: NodeConfig, metadata: Metadata) -> None:
    from tuneyard.cluster.aws import stop_instance

    stop_instance(metadata.instance_id(), config.region)


def _release(config: NodeConfig, folder: Path, metadata: Metadata) -> None:
    """Wait until Ray here has ended, then tell the group that it may end the machine."""
    from tuneyard.cluster.aws import let_group_end_instance

    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline:
        try:
            gcs = connect(config, NodeFolder(folder))
            try:
                node = own_node(gcs.nodes(), config)
            finally:
                gcs.close()
            if node is None or not node.alive:
                break
        except ClusterError as error:
            log.warning("Whether Ray here has ended: %s", error)
        time.sleep(POLL_S)
    if config.autoscaling_group is None:
        return
    try:
        let_group_end_instance(config.autoscaling_group, metadata.instance_id(), config.region)
    except ClusterError as error:
        log.warning("The group ends this machine when its patience does: %s", error)

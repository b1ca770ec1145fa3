"""Takes a node out of work: its trials save, leave and go on elsewhere, and its Ray ends after them."""

import json
import shlex
import time
from collections.abc import Callable, Sequence

from tuneyard.cluster.access.ssh import run_on
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node
from tuneyard.cluster.nearest import allowed_instead

POLL_S = 2.0
GRACE_S = 60.0
"""Beyond the time that the work has: for its processes to end, and then Ray's."""
START_S = 180.0


def find_node(inventory: Inventory, wanted: str) -> Node:
    """The node of this name, address or instance id.

    Raises:
        ClusterError: there is none; or it is the head, which cannot be drained.
    """
    nodes = [*inventory.nodes, *_instances(inventory)]
    for node in nodes:
        if wanted in (node.name, node.address, node.instance_id):
            if node.address == inventory.head.address:
                raise ClusterError(
                    f"{wanted} is the head, which cannot be drained: its jobs, which drive the sweeps, run there. "
                    "Stop them (tuneyard stop), and resume their sweeps when it is back."
                )
            return node
    names = [node.name for node in nodes if node.address != inventory.head.address]
    raise ClusterError(f"Cluster {inventory.name} has no node {wanted!r}. {allowed_instead(wanted, names)}")


def order_drain(inventory: Inventory, node: Node, within_s: float | None) -> None:
    """Tell the node to drain itself; returns when its head has taken the order.

    `within_s`: the machine goes then; without, its trials have the `resources.leave_within_s` of their experiments.

    Raises:
        ClusterError: the node cannot be reached, or does not run.
    """
    _run(inventory, node, ["drain", *([] if within_s is None else ["--within-s", f"{within_s:g}"])])


def wait_until_left(
    inventory: Inventory, node: Node, within_s: float | None, tell: Callable[[float], None], poll_s: float = POLL_S
) -> float:
    """Wait until Ray on the node has ended, without `within_s` for ever; the seconds that took.

    `tell` is told them on the way.

    Raises:
        ClusterError: it has not ended long after `within_s`, or the node cannot be reached.
    """
    began = time.monotonic()
    while (state := str(json.loads(_run(inventory, node, ["status"]))["state"])) != "drained":
        passed_s = time.monotonic() - began
        if state == "down":
            raise ClusterError(f"The service of {node.name} was stopped meanwhile.")
        if within_s is not None and passed_s > within_s + GRACE_S:
            raise ClusterError(
                f"{node.name} still has work {passed_s:.0f} s after it was told to leave: something other than "
                "Tuneyard's trials perhaps, which Ray waits for. It gets no new work. See Ray's dashboard."
            )
        tell(passed_s)
        time.sleep(poll_s)
    return time.monotonic() - began


def bring_back(inventory: Inventory, node: Node) -> None:
    """Start the service of a drained node anew, so that it joins again.

    Raises:
        ClusterError: the node cannot be reached, or does not come up.
    """
    _run(inventory, node, ["start"], timeout_s=START_S)


def _instances(inventory: Inventory) -> list[Node]:
    """The machines of groups, which come and go, so that the inventory cannot hold them."""
    if inventory.kind != "aws":
        return []
    from tuneyard.cluster.aws import instances

    return [
        Node(name=f"ip-{one.address.replace('.', '-')}", address=one.address, instance_id=one.id, group=one.group or "")
        for one in instances(inventory.name, inventory.region)
        if one.address is not None and one.state == "running"
    ]


def _run(inventory: Inventory, node: Node, words: Sequence[str], timeout_s: float = 60.0) -> str:
    """Run the node's own program there."""
    line = [inventory.python, "-m", "tuneyard.cluster.node", *words, "--folder", inventory.folder]
    if node.ssh is not None:
        return run_on(node.ssh, line, timeout_s=timeout_s)
    if node.instance_id is None:
        raise ClusterError(f"The inventory does not say how to reach {node.name}: neither ssh nor an instance id.")
    from tuneyard.cluster.aws import run_on_instance

    return run_on_instance(node.instance_id, shlex.join(line), inventory.region)

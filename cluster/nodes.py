"""The nodes of a running cluster: what Ray's dashboard tells of them, and what only the head itself knows."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.access.ssh import run_on
from tuneyard.cluster.aws import ENDED, Instance, run_on_instance
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node

State = Literal["busy", "idle", "draining", "away"]
HERE: Mapping[str, State] = {"busy": "busy", "idle": "idle", "draining": "draining"}
"""What the head calls nodes that take part."""
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node. away: Ray does not have it, or not any more. Numbers are None where Ray does not tell."""

    name: str
    address: str
    head: bool
    state: State
    cpus: float | None = None
    cpus_used: float | None = None
    gpus: float | None = None
    gpus_used: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What Ray's dashboard knows: its nodes, and by node id and resource what is used and what there is."""

    raylets: list[dict[str, Any]]
    usage: Mapping[str, Mapping[str, list[float]]]


def ask_dashboard(connection: Connection) -> Dashboard:
    """Ask for all nodes.

    Raises:
        ClusterError: the head does not answer.
    """
    known = connection.get("/nodes?view=summary", timeout_s=TIMEOUT_S)["data"]["summary"]
    # Fresher than what the summary says of use, and in numbers.
    status = connection.get("/api/cluster_status", timeout_s=TIMEOUT_S)["data"].get("clusterStatus") or {}
    usage = (status.get("loadMetricsReport") or {}).get("usageByNode") or {}
    return Dashboard([one["raylet"] for one in known], usage)


def ask_head(inventory: Inventory) -> dict[str, str]:
    """By address, what the node there is up to: busy, idle, draining, left (on purpose) or lost.

    Raises:
        ClusterError: the head cannot be reached, or its Ray does not answer.
    """
    line = [inventory.python, "-m", "tuneyard.cluster.node.listing", "--folder", inventory.folder]
    if inventory.head.ssh is not None:
        said = run_on(inventory.head.ssh, line, timeout_s=TIMEOUT_S)
    elif inventory.head.instance_id is not None:
        said = run_on_instance(inventory.head.instance_id, shlex.join(line), inventory.region)
    else:
        raise ClusterError("The inventory does not say how to reach the head: it has neither ssh nor an instance id.")
    # In the order they came: of several at one address the last one counts.
    return {str(node["address"]): str(node["state"]) for node in json.loads(said)}


def read_nodes(told: Dashboard, states: Mapping[str, str], inventory: Inventory) -> list[ClusterNode]:
    """All nodes that run, the head first, and those of the inventory that do not; without `states` from use alone."""
    planned = {node.address: node for node in inventory.nodes}
    running: dict[str, ClusterNode] = {}
    for raylet in told.raylets:
        address = raylet["nodeManagerAddress"]
        if raylet.get("state") == "ALIVE" and states.get(address) not in ("left", "lost"):
            name = planned[address].name if address in planned else raylet.get("nodeName") or address
            extra = inventory.kind == "onprem" and address not in planned
            note = "not of the cluster any more" if extra else ""
            running[address] = _node(name, raylet, told.usage.get(raylet["nodeId"], {}), states.get(address), note)
    others = [
        _unlisted(node, states.get(node.address), head=node == inventory.head)
        for node in inventory.nodes
        if node.address not in running
    ]
    others += [
        ClusterNode(address, address, head=False, state=HERE[state])
        for address, state in states.items()
        if state in HERE and address not in running and address not in planned
    ]
    return sorted([*running.values(), *others], key=lambda node: (not node.head, node.name))


def with_machines(nodes: Sequence[ClusterNode], machines: Sequence[Instance]) -> list[ClusterNode]:
    """The nodes, each with its machine type, and AWS's machines that run and are no node: booting, or broken."""
    by_address = {one.address: one for one in machines if one.state not in ENDED and one.address is not None}
    told = [
        replace(node, note=", ".join(filter(None, (_type(by_address.pop(node.address, None)), node.note))))
        for node in nodes
    ]
    others = [
        ClusterNode(one.id, address, head=False, state="away", note=f"{_type(one)}, {one.state}, not among Ray's nodes")
        for address, one in by_address.items()
    ]
    return [*told, *others]


def _type(machine: Instance | None) -> str:
    return "" if machine is None else f"{machine.machine}{' on spot' if machine.spot else ''}"


def _unlisted(node: Node, state: str | None, *, head: bool) -> ClusterNode:
    """A node that the dashboard does not tell of: one that has just joined the head itself knows sooner."""
    if state is not None and state in HERE:
        return ClusterNode(node.name, node.address, head, HERE[state])
    note = "not among Ray's nodes"
    if state == "left":
        note = f"drained; tuneyard drain {node.name} --undo brings it back"
    elif state == "lost":
        note = "lost; it joins again when it is back"
    return ClusterNode(node.name, node.address, head, "away", note=note)


def _node(
    name: str, raylet: Mapping[str, Any], usage: Mapping[str, list[float]], state: str | None, note: str
) -> ClusterNode:  # fmt: skip
    total = raylet.get("resourcesTotal") or {}
    cpus, gpus = (usage.get(what, (None, total.get(what))) for what in ("CPU", "GPU"))
    found: State = "draining" if state == "draining" else "busy" if cpus[0] or gpus[0] else "idle"
    return ClusterNode(
        name=name, address=raylet["nodeManagerAddress"], head=bool(raylet.get("isHeadNode")), state=found,
        cpus=cpus[1], cpus_used=cpus[0], gpus=gpus[1], gpus_used=gpus[0], note=note,
    )  # fmt: skip

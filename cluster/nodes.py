"""The nodes of a running cluster, as Ray's dashboard tells of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tuneyard.cluster.aws import ENDED, Instance
from tuneyard.cluster.connection import Connection
from tuneyard.cluster.inventory import Inventory

State = Literal["running", "idle", "draining", "away"]
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node. away: Ray does not have it, or lost it. Numbers are None where Ray does not tell."""

    name: str
    address: str
    head: bool
    state: State
    cpus: float | None = None
    cpus_used: float | None = None
    gpus: float | None = None
    gpus_used: float | None = None
    note: str = ""


def nodes_of(connection: Connection, inventory: Inventory) -> list[ClusterNode]:
    """All nodes that run, the head first, and those of the inventory that do not.

    Raises:
        ClusterError: the head does not answer.
    """
    known = connection.get("/nodes?view=summary", timeout_s=TIMEOUT_S)["data"]["summary"]
    # Fresher than what the summary says of use, and in numbers.
    report = (connection.get("/api/cluster_status", timeout_s=TIMEOUT_S)["data"].get("clusterStatus") or {}).get(
        "loadMetricsReport"
    ) or {}
    return read_nodes([one["raylet"] for one in known], report.get("usageByNode") or {}, inventory)


def read_nodes(
    raylets: list[dict[str, Any]], usage: Mapping[str, Mapping[str, list[float]]], inventory: Inventory
) -> list[ClusterNode]:
    """The same from the dashboard's answers: `usage` is, by node id and resource, what is used and what there is."""
    planned = {node.address: node for node in inventory.nodes}
    running: dict[str, ClusterNode] = {}
    for raylet in raylets:
        if raylet.get("state") == "ALIVE":
            address = raylet["nodeManagerAddress"]
            name = planned[address].name if address in planned else raylet.get("nodeName") or address
            extra = inventory.kind == "onprem" and address not in planned
            note = "not of the cluster any more" if extra else ""
            running[address] = _node(name, raylet, usage.get(raylet["nodeId"], {}), note)
    away = [
        ClusterNode(node.name, node.address, node == inventory.head, "away", note="not among Ray's nodes")
        for node in inventory.nodes
        if node.address not in running
    ]
    return sorted([*running.values(), *away], key=lambda node: (not node.head, node.name))


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


def _node(name: str, raylet: Mapping[str, Any], usage: Mapping[str, list[float]], note: str) -> ClusterNode:
    total = raylet.get("resourcesTotal") or {}
    cpus, gpus = (usage.get(what, (None, total.get(what))) for what in ("CPU", "GPU"))
    draining = (raylet.get("stateSnapshot") or {}).get("state") == "DRAINING"
    state: State = "draining" if draining else "running" if cpus[0] or gpus[0] else "idle"
    return ClusterNode(
        name=name, address=raylet["nodeManagerAddress"], head=bool(raylet.get("isHeadNode")), state=state,
        cpus=cpus[1], cpus_used=cpus[0], gpus=gpus[1], gpus_used=gpus[0], note=note,
    )  # fmt: skip

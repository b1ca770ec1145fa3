"""Runs one program on several nodes of a cluster at the same time: the request on its standard input, JSON back."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tuneyard.cluster.access.ssh import run_on
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node

Reply = TypeVar("Reply", bound=BaseModel)

Run = Callable[[Node, Sequence[str], str, float], str]
"""Runs a command on a node, with this standard input and within so many seconds; ClusterError where it cannot."""

_AT_A_TIME = 64


def over_ssh(node: Node, command: Sequence[str], stdin: str, timeout_s: float) -> str:
    """Run a command there over SSH. Raises `ClusterError`."""
    if node.ssh is None:
        raise ClusterError(f"The inventory does not say how to reach {node.name}: neither ssh nor an instance id.")
    return run_on(node.ssh, command, stdin=stdin, timeout_s=timeout_s)


def runner(inventory: Inventory) -> Run:
    """Runs commands on this cluster's nodes: over SSH, or through AWS's Systems Manager where there is none."""

    def run(node: Node, command: Sequence[str], stdin: str, timeout_s: float) -> str:
        if node.ssh is not None or node.instance_id is None:
            return over_ssh(node, command, stdin, timeout_s)
        from tuneyard.cluster.aws import run_on_instance

        line = f"printf %s {shlex.quote(stdin)} | {shlex.join(command)}"
        return run_on_instance(node.instance_id, line, inventory.region)

    return run


def nodes_of(inventory: Inventory) -> list[Node]:
    """All nodes that the cluster has at this moment, the head first. Raises `ClusterError` where a cloud refuses."""
    if inventory.kind != "aws":
        return inventory.nodes
    from tuneyard.cluster.aws import instances

    groups = {group.autoscaling_group: group.name for group in inventory.groups}
    workers = [
        Node(
            name=f"ip-{one.address.replace('.', '-')}", address=one.address, instance_id=one.id, group=groups[one.group]
        )
        for one in instances(inventory.name, inventory.region)
        if one.group in groups and one.state == "running" and one.address is not None
    ]
    return [inventory.head, *workers]


def ask_all(
    requests: Mapping[str, BaseModel], nodes: Sequence[Node], command: Sequence[str], reply: type[Reply], run: Run,
    timeout_s: float,
) -> dict[str, Reply | ClusterError]:  # fmt: skip
    """Each node's answer to its own request, by the nodes' names; of a node that gave none, why."""

    def ask(node: Node) -> Reply | ClusterError:
        try:
            said = run(node, command, requests[node.name].model_dump_json(), timeout_s)
        except ClusterError as error:
            return error
        return _read(node, said, reply)

    # As many threads as nodes: programs on several nodes wait for each other.
    with ThreadPoolExecutor(max(1, min(_AT_A_TIME, len(nodes)))) as pool:
        return dict(zip([node.name for node in nodes], pool.map(ask, nodes), strict=True))


def _read(node: Node, said: str, reply: type[Reply]) -> Reply | ClusterError:
    """The answer is the last line: libraries print what they like before it."""
    lines = said.strip().splitlines()
    try:
        return reply.model_validate_json(lines[-1] if lines else "")
    except ValidationError:
        return ClusterError(
            f"{node.name} answers what this tuneyard does not understand: {' '.join(said.split())[:200]!r}. See that "
            "it has the same version: tuneyard up installs it."
        )

"""`tuneyard drain`: a node gives up its work, which goes on elsewhere."""

from rich.console import Console

from tuneyard.cluster.drain import bring_back, find_node, order_drain, wait_until_left
from tuneyard.cluster.inventory import Inventory, Node
from tuneyard.cluster.provision.clusters import find_cluster

TOLD_EVERY_S = 10.0


def drain_command(wanted: str, *, cluster: str | None, within_s: float | None, undo: bool) -> None:
    """Drain the node and wait until its Ray has ended; with `undo`, bring it back."""
    console = Console(highlight=False)
    inventory = find_cluster(cluster).inventory()
    node = find_node(inventory, wanted)
    if undo:
        bring_back(inventory, node)
        console.print(f"{node.name} is back and takes work again.")
        return
    order_drain(inventory, node, within_s)
    limit = "the resources.leave_within_s of their experiments" if within_s is None else f"{within_s:g} s"
    console.print(
        f"{node.name} gets no new work. Its trials save, leave within {limit}, and go on elsewhere. "
        "Ctrl-C only ends the waiting for that.",
        soft_wrap=True,
    )
    told = [0.0]

    def tell(passed_s: float) -> None:
        if passed_s - told[0] >= TOLD_EVERY_S:
            told[0] = passed_s
            console.print(f"{passed_s:6.0f} s  it still has work")

    took_s = wait_until_left(inventory, node, within_s, tell)
    console.print(f"{node.name} has left, {took_s:.0f} s later. {_next(inventory, node)}", soft_wrap=True)


def _next(inventory: Inventory, node: Node) -> str:
    """What becomes of the machine."""
    back = f"tuneyard drain {node.name} --undo"
    if inventory.kind == "aws":
        return f"The machine runs on and costs money, unless its group's idle_minutes end it. To use it again: {back}"
    return f"It stays away, until its machine or its service is started anew: {back}"

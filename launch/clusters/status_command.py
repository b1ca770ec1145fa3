"""`tuneyard status`: a cluster's nodes, its jobs, what it costs now and what it has cost so far."""

import datetime
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rich.console import Console

from tuneyard.cluster.access.connection import connect
from tuneyard.cluster.aws import Instance, activities, instances
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.money.cost import Quote, quote
from tuneyard.cluster.money.machines import Fleet
from tuneyard.cluster.money.prices import PriceTable
from tuneyard.cluster.money.spending import Spent, machine_spans, read_marks, running_fleet, spent
from tuneyard.cluster.nodes import ClusterNode, ask_dashboard, ask_head, read_nodes, with_machines
from tuneyard.cluster.provision.clusters import Cluster, find_cluster
from tuneyard.launch.clusters.status_table import show_status
from tuneyard.launch.jobs.jobs import Job, list_jobs


@dataclass(frozen=True, slots=True)
class Status:
    """All that is known; `troubles` says what could not be asked, and why."""

    inventory: Inventory
    nodes: tuple[ClusterNode, ...]
    jobs: tuple[Job, ...]
    now: Quote
    so_far: Spent
    troubles: tuple[str, ...]


def status_command(name: str | None, *, table: PriceTable, as_json: bool) -> int:
    """Ask the head and, in AWS, AWS; print what they say. Exits 1 where the head does not answer."""
    cluster = find_cluster(name)
    found = read_status(cluster, table)
    if as_json:
        told = {
            "cluster": found.inventory.model_dump(mode="json"), "nodes": [asdict(one) for one in found.nodes],
            "jobs": [asdict(one) for one in found.jobs], "currency": table.currency, "hour": found.now.hour,
            "spent": asdict(found.so_far), "prices_as_of": str(table.as_of), "troubles": found.troubles,
        }  # fmt: skip
        print(json.dumps(told, indent=1, default=str))  # noqa: T201 - the command line speaks
    else:
        show_status(found, table, Console(highlight=False))
    return 1 if found.troubles else 0


def read_status(cluster: Cluster, table: PriceTable) -> Status:
    """Ask everybody; whoever does not answer is among the troubles.

    Raises:
        ClusterError: the cluster is not up.
    """
    inventory = cluster.inventory()
    troubles: list[str] = []
    nodes: Sequence[ClusterNode] = ()
    jobs: Sequence[Job] = ()
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(_states, inventory)
        try:
            with connect(inventory) as connection:
                told = ask_dashboard(connection)
                jobs = list_jobs(connection)
            states, trouble = asked.result()
            nodes = read_nodes(told, states, inventory)
            troubles += [f"who is draining is not known: {trouble}"] if trouble else []
        except ClusterError as error:
            troubles.append(f"the head does not tell: {_once(str(error))}")
    machines: list[Instance] = []
    done = []
    if inventory.kind == "aws":
        groups = [group.autoscaling_group for group in inventory.groups if group.autoscaling_group is not None]
        try:
            machines = instances(inventory.name, inventory.region)
            done = activities(groups, inventory.region)
        except ClusterError as error:
            troubles.append(str(error))
        nodes = with_machines(nodes, machines)
    marks = read_marks(cluster.folder) if cluster.ours else []
    around = marks[-1].fleet() if marks else Fleet(())
    running = running_fleet(machines, inventory, around) if inventory.kind == "aws" else around
    so_far = spent(machine_spans(machines, done, inventory), marks, table, datetime.datetime.now(datetime.UTC))
    return Status(inventory, tuple(nodes), tuple(jobs), quote(running, table), so_far, tuple(troubles))


def _once(text: str) -> str:
    """A program that tried several times has said the same as often."""
    return " ".join(dict.fromkeys(re.sub(r"channel \d+: ", "", line).strip() for line in text.splitlines()))


def _states(inventory: Inventory) -> tuple[dict[str, str], str | None]:
    """What the head knows of its nodes, or why it does not tell."""
    try:
        return ask_head(inventory), None
    except ClusterError as error:
        return {}, str(error)

"""A fleet: which machines a cluster has, or will have, and what costs money beside them; before any price."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.money.prices import PriceTable
from tuneyard.cluster.nearest import allowed_instead
from tuneyard.cluster.provision.terraform_plan import Plan, Resource

HEAD = "head"
WORKERS = "workers"
"""The one group where groups have no names."""


@dataclass(frozen=True, slots=True)
class Part:
    """Machines that are alike: the head, or a group of workers.

    Attributes:
        machines: names of machine types, in order of preference; none of machines that the user owns.
        nodes: names of the nodes, where they are known.
    """

    name: str
    machines: tuple[str, ...]
    count: int
    on_demand_percent: int = 100
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All machines, and what is around them. `disk_gb` is of all disks together; a zone counts as an endpoint."""

    parts: tuple[Part, ...]
    region: str | None = None
    disk_gb: float = 0.0
    nat_gateways: int = 0
    endpoints: int = 0
    addresses: int = 0


def named_machines(words: Sequence[str], table: PriceTable, *, spot: bool = False) -> Fleet:
    """The fleet of `g6.xlarge=4` and the like: so many of these machines, one without a number.

    Raises:
        ClusterError: the table does not have a machine, or the number is none.
    """
    parts = []
    for word in words:
        name, _, number = word.partition("=")
        if table.machine(name) is None:
            known = allowed_instead(name, [machine.name for machine in table.machines])
            raise ClusterError(f"Machine {name!r} is not in the price table. {known}")
        if number and not number.isdigit():
            raise ClusterError(f"{word}: {number!r} is no number of machines. Give it as {name}=4.")
        parts.append(Part(name, (name,), int(number or 1), 0 if spot else 100))
    return Fleet(tuple(parts))


def fleet_of_inventory(inventory: Inventory) -> Fleet:
    """The machines of a cluster that is up. Disks and the like are in no inventory."""
    head_types = (inventory.head_machine,) if inventory.head_machine else ()
    parts = [Part(HEAD, head_types, 1, nodes=(inventory.head.name,))]
    for group in inventory.groups:
        nodes = tuple(node.name for node in inventory.workers if node.group == group.name)
        parts.append(Part(group.name, tuple(group.machines), group.count, group.on_demand_percent, nodes))
    rest = tuple(
        node.name for node in inventory.workers if node.group not in {group.name for group in inventory.groups}
    )
    if rest:
        parts.append(Part(WORKERS, (), len(rest), nodes=rest))
    return Fleet(tuple(parts), inventory.region)


def fleet_of_plan(plan: Plan, region: str | None) -> Fleet:
    """What there will be in AWS when the plan is applied."""
    by_type: dict[str, list[Resource]] = {}
    for resource in plan.resources:
        by_type.setdefault(resource.type, []).append(resource)
    templates = {_module(one.address): one for one in by_type.get("aws_launch_template", [])}
    parts = [Part(HEAD, (one.values["instance_type"],), 1) for one in by_type.get("aws_instance", [])]
    disk_gb = sum(_disk_gb(one.values.get("root_block_device")) for one in by_type.get("aws_instance", []))
    disk_gb += sum(float(one.values.get("size") or 0) for one in by_type.get("aws_ebs_volume", []))
    for group in by_type.get("aws_autoscaling_group", []):
        template = templates.get(_module(group.address))
        part = _group(group, template)
        parts.append(part)
        mapped = template.values.get("block_device_mappings") or [] if template else []
        disk_gb += part.count * sum(_disk_gb(one.get("ebs")) for one in mapped)
    endpoints = [
        one for one in by_type.get("aws_vpc_endpoint", []) if one.values.get("vpc_endpoint_type") == "Interface"
    ]
    return Fleet(
        tuple(parts), region, disk_gb,
        nat_gateways=len(by_type.get("aws_nat_gateway", [])),
        # Which subnets is often known only after the apply; how many, from the count of those that are made.
        endpoints=sum(len(one.values.get("subnet_ids") or ()) or _zones(by_type) for one in endpoints),
        addresses=len(by_type.get("aws_eip", [])),
    )  # fmt: skip


def _group(group: Resource, template: Resource | None) -> Part:
    policy = _first(group.values.get("mixed_instances_policy"))
    launch = _first(policy.get("launch_template"))
    machines = tuple(one["instance_type"] for one in launch.get("override") or [] if one.get("instance_type"))
    if not machines and template is not None and template.values.get("instance_type"):
        machines = (template.values["instance_type"],)
    percent = _first(policy.get("instances_distribution")).get("on_demand_percentage_above_base_capacity")
    return Part(
        _name(group.address), machines, int(group.values.get("desired_capacity") or 0),
        100 if percent is None else int(percent),
    )  # fmt: skip


def _zones(by_type: Mapping[str, Sequence[Resource]]) -> int:
    zones = {one.values.get("availability_zone") for one in by_type.get("aws_subnet", [])} - {None}
    return max(len(zones), 1)


def _disk_gb(blocks: Any) -> float:
    return float(_first(blocks).get("volume_size") or 0)


def _first(blocks: Any) -> dict[str, Any]:
    """The one block of a list of blocks, in Terraform's JSON form."""
    return blocks[0] if isinstance(blocks, list) and blocks and isinstance(blocks[0], dict) else {}


def _module(address: str) -> str:
    """The module of a resource, with its keys: `module.workers["gpu"]`; a key of the resource itself counts too."""
    key = re.search(r'\["([^"]+)"\]$', address)
    module = re.sub(r"(^|\.)[a-z0-9_]+\.[A-Za-z0-9_-]+(\[[^\]]*\])?$", "", address)
    return f"{module}/{key[1]}" if key else module


def _name(address: str) -> str:
    """The key of the last `for_each` in the address: the name that the user gave the group."""
    keys = re.findall(r'\["([^"]+)"\]', address)
    return keys[-1] if keys else WORKERS

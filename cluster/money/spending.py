"""What a cluster has cost so far: machines by the hours that they ran, what is around them by the hours it is there.

Machines in AWS come and go without us, so AWS is asked for them. Of the rest a ledger in the cluster's folder knows:
one line for each `tuneyard up`, with what there was from then on.
"""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tuneyard.cluster.aws import ENDED, Activity, Instance
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.money.cost import quote
from tuneyard.cluster.money.machines import HEAD, WORKERS, Fleet, Part
from tuneyard.cluster.money.prices import PriceTable
from tuneyard.cluster.private_files import append_private

LEDGER = "ledger.jsonl"
SECONDS_PER_HOUR = 3600.0


class Mark(BaseModel):
    """What there was from this time on: nodes that are the user's own, and what costs beside machines for hire."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: datetime.datetime
    nodes: list[str] = Field(default_factory=list)
    disk_gb: float = 0.0
    nat_gateways: int = 0
    endpoints: int = 0
    addresses: int = 0

    def fleet(self) -> Fleet:
        """The same, to be priced."""
        nodes = tuple(self.nodes)
        parts = (Part(WORKERS, (), len(nodes), nodes=nodes),) if nodes else ()
        return Fleet(parts, None, self.disk_gb, self.nat_gateways, self.endpoints, self.addresses)


@dataclass(frozen=True, slots=True)
class Span:
    """A machine for hire ran from `start` to `end`, or still runs; `on_demand` is how likely it was not on spot."""

    machine: str
    start: datetime.datetime
    end: datetime.datetime | None
    on_demand: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What it came to. Machines without a price are only counted in `machine_hours` and `unpriced`."""

    money: float
    machine_hours: float
    since: datetime.datetime | None
    unpriced: tuple[str, ...]


def mark(folder: Path, fleet: Fleet, now: datetime.datetime) -> None:
    """Note in the cluster's folder what there is from now on."""
    line = Mark(
        time=now, nodes=[node for part in fleet.parts if not part.machines for node in part.nodes],
        disk_gb=fleet.disk_gb, nat_gateways=fleet.nat_gateways, endpoints=fleet.endpoints, addresses=fleet.addresses,
    )  # fmt: skip
    with append_private(folder / LEDGER) as file:
        file.write(line.model_dump_json() + "\n")


def read_marks(folder: Path) -> list[Mark]:
    """The ledger, oldest first; a last line that was cut off does not count."""
    path = folder / LEDGER
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Mark.model_validate(json.loads(line)))
        except ValueError:
            continue
    return found


def machine_spans(instances: Iterable[Instance], activities: Sequence[Activity], inventory: Inventory) -> list[Span]:
    """When machines ran. Of those that AWS has forgotten only the groups' activities tell: their type is the group's
    first, and whether they were on spot its share.
    """
    ended = {done.instance: done.time for done in activities if not done.launched}
    groups = {group.autoscaling_group: group for group in inventory.groups}
    spans, known = [], set()
    for one in instances:
        known.add(one.id)
        end = ended.get(one.id) or one.ended
        if one.state not in ENDED or end is not None:
            spans.append(Span(one.machine, one.launched, end, 0.0 if one.spot else 1.0))
    for done in activities:
        group = groups.get(done.group)
        if done.launched and done.instance not in known and group is not None and group.machines:
            share = group.on_demand_percent / 100.0
            spans.append(Span(group.machines[0], done.time, ended.get(done.instance), share))
    return spans


def spent(
    spans: Sequence[Span], marks: Sequence[Mark], table: PriceTable, now: datetime.datetime
) -> Spent:  # fmt: skip
    """What machines and all around them have cost until now, by the table."""
    money = hours = 0.0
    unpriced: set[str] = set()
    for span in spans:
        lasted = _hours(span.start, span.end or now)
        hours += lasted
        machine = table.machine(span.machine)
        if machine is None:
            unpriced.add(span.machine)
        else:
            each = [table.hour(machine, spot=taken) for taken in (False, True)]
            money += lasted * (span.on_demand * each[0] + (1.0 - span.on_demand) * each[1])
    for one, until in pairwise([*marks, None]):
        assert one is not None, "only the last is none"
        lasted = _hours(one.time, until.time if until is not None else now)
        hours += lasted * len(one.nodes)
        money += lasted * quote(one.fleet(), table).hour
    starts = [span.start for span in spans] + [one.time for one in marks]
    return Spent(money, hours, min(starts, default=None), tuple(sorted(unpriced)))


def running_fleet(instances: Iterable[Instance], inventory: Inventory, around: Fleet) -> Fleet:
    """The machines that cost money at this moment."""
    counts: dict[tuple[str, str, bool], int] = {}
    names = {group.autoscaling_group: group.name for group in inventory.groups}
    for one in instances:
        if one.state not in (*ENDED, "stopped", "stopping"):
            key = (names.get(one.group, HEAD) if one.group else HEAD, one.machine, one.spot)
            counts[key] = counts.get(key, 0) + 1
    parts = tuple(
        Part(name, (machine,), count, 0 if spot else 100) for (name, machine, spot), count in sorted(counts.items())
    )
    return Fleet(
        parts, inventory.region, around.disk_gb, around.nat_gateways, around.endpoints, around.addresses
    )  # fmt: skip


def _hours(start: datetime.datetime, end: datetime.datetime) -> float:
    return max((end - start).total_seconds(), 0.0) / SECONDS_PER_HOUR

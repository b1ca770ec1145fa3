"""What machines cost: a quote for a fleet by the hour, what GPU-hours cost on each machine, and when buying pays."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuneyard.cluster.money.machines import HEAD, WORKERS, Fleet, Part
from tuneyard.cluster.money.prices import HOURS_PER_MONTH, Machine, PriceTable, Purchase

_OWN_NOTE = "what your own machines cost is not known: it may stand under `own` in a price file (--prices FILE)"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a quote, in money for an hour.

    Attributes:
        hour: as it is set up; None where there is no price.
        on_demand: the same all on demand.
        spot: the same all on spot; the head and what is no machine is never on spot.
        always: is paid while no worker runs, too.
    """

    what: str
    count: int | None
    detail: str
    hour: float | None
    on_demand: float | None
    spot: float | None
    always: bool


@dataclass(frozen=True, slots=True)
class Quote:
    """What a fleet costs for an hour, and what to know about it."""

    lines: tuple[Line, ...]
    currency: str
    notes: tuple[str, ...]

    @property
    def hour(self) -> float:
        """All lines that have a price."""
        return sum(line.hour or 0.0 for line in self.lines)

    @property
    def on_demand(self) -> float:
        """With every worker on demand."""
        return sum(line.on_demand or 0.0 for line in self.lines)

    @property
    def spot(self) -> float:
        """With every worker on spot."""
        return sum(line.spot or 0.0 for line in self.lines)

    @property
    def idle(self) -> float:
        """While no worker runs."""
        return sum(line.hour or 0.0 for line in self.lines if line.always)


def quote(fleet: Fleet, table: PriceTable) -> Quote:
    """The price of a fleet for an hour, by the table."""
    notes: list[str] = []
    lines = [_part_line(part, table, notes) for part in fleet.parts]
    around = table.around
    if fleet.disk_gb:
        each = fleet.disk_gb * around.disk_gb_month / HOURS_PER_MONTH
        lines.append(_fixed("disks", None, f"{fleet.disk_gb:,.0f} GB", each))
    if fleet.nat_gateways:
        each = fleet.nat_gateways * around.nat_hour
        lines.append(_fixed("NAT gateway", fleet.nat_gateways, f"and {around.nat_gb:g} for each GB", each))
    if fleet.endpoints:
        lines.append(_fixed("endpoints", fleet.endpoints, "one for each zone", fleet.endpoints * around.endpoint_hour))
    if fleet.addresses:
        lines.append(_fixed("public address", fleet.addresses, "", fleet.addresses * around.address_hour))
    if fleet.region is not None and around.bucket_gb_month:
        lines.append(_fixed("bucket", 1, f"and {around.bucket_gb_month:g} a month for each GB", 0.0))
    if fleet.region is not None and fleet.region not in table.source:
        notes.append(f"the prices are of {table.source}; in {fleet.region} they differ, often by 5 to 30 % more")
    return Quote(tuple(lines), table.currency, tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, slots=True)
class Offer:
    """What an hour of a GPU, and all the GPU-hours, cost on a machine for hire; the totals are None without hours."""

    machine: Machine
    gpu_hour: float
    gpu_hour_spot: float
    total: float | None
    total_spot: float | None


def offers(table: PriceTable, gpu_hours: float | None, names: Sequence[str] = ()) -> list[Offer]:
    """The machines with GPUs, or these of them, cheapest GPU-hour first. Slower GPUs take more hours for the same."""
    found = []
    for machine in table.machines:
        if machine.gpus and (not names or machine.name in names):
            each, spot = (table.hour(machine, spot=taken) / machine.gpus for taken in (False, True))
            totals = (None, None) if gpu_hours is None else (each * gpu_hours, spot * gpu_hours)
            found.append(Offer(machine, each, spot, *totals))
    return sorted(found, key=lambda offer: offer.gpu_hour)


@dataclass(frozen=True, slots=True)
class Payback:
    """A machine for sale against the rented one that comes nearest, both with all their GPUs busy.

    Attributes:
        running_hour: its electricity for an hour.
        rented: what as many GPUs of the rented machine cost for an hour, on demand; `rented_spot` on spot.
        hours: busy hours until the purchase has paid, on demand; None where it never does.
        total: what the GPU-hours cost in electricity alone; None without hours.
    """

    purchase: Purchase
    running_hour: float
    rented: float
    rented_spot: float
    hours: float | None
    hours_spot: float | None
    total: float | None


def cheapest_of_each_gpu(offers: Sequence[Offer]) -> list[Offer]:
    """Of machines with the same GPU the one whose GPU-hour costs least."""
    found: dict[str, Offer] = {}
    for offer in offers:
        best = found.setdefault(offer.machine.gpu, offer)
        if offer.gpu_hour < best.gpu_hour:
            found[offer.machine.gpu] = offer
    return sorted(found.values(), key=lambda offer: offer.gpu_hour)


def paybacks(table: PriceTable, gpu_hours: float | None) -> list[Payback]:
    """Every machine for sale whose counterpart for hire is in the table."""
    found = []
    for purchase in table.purchases:
        like = table.machine(purchase.like)
        if like is None or not like.gpus:
            continue
        running = table.electricity.hour(purchase.watts)
        share = purchase.gpus / like.gpus
        rented, spot = (share * table.hour(like, spot=taken) for taken in (False, True))
        total = None if gpu_hours is None else gpu_hours / purchase.gpus * running
        on_demand, on_spot = (_until_paid(purchase, each - running) for each in (rented, spot))
        found.append(Payback(purchase, running, rented, spot, on_demand, on_spot, total))
    return found


def _until_paid(purchase: Purchase, saved_hour: float) -> float | None:
    return purchase.price / saved_hour if saved_hour > 0 else None


def _part_line(part: Part, table: PriceTable, notes: list[str]) -> Line:
    named = part.name in (HEAD, WORKERS, *part.machines)
    what = part.name if named else f"workers {part.name}"
    always = part.name == HEAD
    if not part.machines:
        return _own_line(part, what, table, notes, always=always)
    machine = next((found for name in part.machines if (found := table.machine(name)) is not None), None)
    if machine is None:
        notes.append(f"{what}: no price for {', '.join(part.machines)}; give them with --prices FILE")
        return Line(what, part.count, part.machines[0], None, None, None, always)
    on_demand, spot = (part.count * table.hour(machine, spot=taken) for taken in (False, True))
    share = part.on_demand_percent / 100.0
    others = [found for name in part.machines if (found := table.machine(name)) is not None and found != machine]
    if others and (dearest := max(others, key=lambda one: one.on_demand)).on_demand > machine.on_demand:
        notes.append(f"{what}: with {dearest.name} instead, {part.count * dearest.on_demand:.2f} an hour on demand")
    kind = "" if always or share == 1.0 else "spot" if share == 0.0 else f"{1.0 - share:.0%} spot"
    detail = ", ".join(filter(None, ("" if what == machine.name else machine.name, kind)))
    return Line(
        what, part.count, detail, share * on_demand + (1.0 - share) * spot, on_demand,
        on_demand if always else spot, always,
    )  # fmt: skip


def _own_line(part: Part, what: str, table: PriceTable, notes: list[str], *, always: bool) -> Line:
    owned = [table.own_machine(node) for node in part.nodes]
    priced = [one.hour(table.electricity) for one in owned if one is not None]
    if len(priced) < part.count:
        notes.append(_OWN_NOTE)
    hour = sum(priced) if priced else None
    return Line(what, part.count, "your own", hour, hour, hour, always)


def _fixed(what: str, count: int | None, detail: str, hour: float) -> Line:
    return Line(what, count, detail, hour, hour, hour, always=True)

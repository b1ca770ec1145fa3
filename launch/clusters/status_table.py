"""A cluster's status in the terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.amounts import duration_text
from tuneyard.cluster.money.prices import PriceTable

if TYPE_CHECKING:
    from tuneyard.launch.clusters.status_command import Status

MOST_JOBS = 10
_STYLES = {
    "running": "green",
    "busy": "green",
    "idle": "",
    "draining": "yellow",
    "away": "red",
    "failed": "red",
    "succeeded": "dim",
}


def show_status(status: "Status", table: PriceTable, console: Console) -> None:
    """Print nodes, jobs and money."""
    inventory = status.inventory
    what = "on-prem" if inventory.kind == "onprem" else f"AWS {inventory.region or ''}".strip()
    version = f" · tuneyard {inventory.version}" if inventory.version not in ("", "unknown") else ""
    console.print(Text.assemble((inventory.name, "bold"), f" · {what}{version}"))
    for trouble in status.troubles:
        console.print(f"! {trouble}", style="yellow", markup=False)
    if status.nodes:
        console.print()
        console.print(_nodes(status))
    console.print()
    _jobs(status, console)
    console.print()
    _money(status, table, console)


def _nodes(status: "Status") -> Table:
    shown = _table(
        ("node", False), ("state", False), ("address", False), ("CPUs used", True), ("GPUs used", True), ("", False)
    )
    for node in status.nodes:
        shown.add_row(
            node.name, Text(node.state, _STYLES.get(node.state, "")), node.address,
            _share(node.cpus_used, node.cpus), _share(node.gpus_used, node.gpus), node.note,
        )  # fmt: skip
    return shown


def _jobs(status: "Status", console: Console) -> None:
    if not status.jobs:
        console.print("no jobs", style="dim")
        return
    shown = _table(("job", False), ("state", False), ("time", True), ("", False))
    for job in status.jobs[:MOST_JOBS]:
        lasted = "" if job.seconds is None else duration_text(job.seconds)
        shown.add_row(job.id, Text(job.status, _STYLES.get(job.status, "")), lasted, job.what)
    console.print(shown)
    if len(status.jobs) > MOST_JOBS:
        console.print(f"and {len(status.jobs) - MOST_JOBS} older ones: tuneyard jobs", style="dim")


def _money(status: "Status", table: PriceTable, console: Console) -> None:
    so_far, currency = status.so_far, table.currency
    if so_far.since is None:
        console.print("what it has cost is not known: it was not made by tuneyard up", style="dim")
        return
    since = so_far.since.astimezone().strftime("%Y-%m-%d %H:%M")
    console.print(f"{so_far.machine_hours:,.1f} machine-hours since {since}")
    if so_far.money or status.now.hour:
        console.print(f"spent about {so_far.money:,.2f} {currency}; now {status.now.hour:,.2f} {currency} an hour")
        console.print(
            f"prices: {table.source}, as of {table.as_of}; without traffic, objects in S3 and tax", style="dim"
        )
    for name in so_far.unpriced:
        console.print(f"! no price for {name}: give one with --prices FILE", style="yellow", markup=False)
    for note in status.now.notes:
        console.print(f"! {note}", style="yellow", markup=False)


def _share(used: float | None, total: float | None) -> str:
    if not total:
        return "-"
    return f"{'?' if used is None else f'{used:g}'} of {total:g}"


def _table(*columns: tuple[str, bool]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for title, right in columns:
        shown.add_column(title, justify="right" if right else "left", overflow="fold")
    return shown

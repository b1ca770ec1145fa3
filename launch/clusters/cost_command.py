"""`tuneyard cost`: what machines, a cluster or a plan's GPU-hours cost; starts nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.money.cost import Quote, cheapest_of_each_gpu, offers, paybacks, quote
from tuneyard.cluster.money.machines import fleet_of_inventory, named_machines
from tuneyard.cluster.money.prices import PriceTable
from tuneyard.cluster.provision.clusters import find_cluster
from tuneyard.launch.clusters.cost_table import show_offers, show_paybacks, show_quote, show_source


def cost_command(
    machines: Sequence[str], *, spot: bool, cluster: str | None, plan: Path | None, gpu_hours: float | None,
    table: PriceTable, as_json: bool,
) -> None:  # fmt: skip
    """Print what was asked for: a quote for machines or a cluster, GPU-hours on every machine, and buying."""
    hours, note = (gpu_hours, None) if plan is None else _plans_hours(plan)
    made: Quote | None = None
    if machines:
        made = quote(named_machines(machines, table, spot=spot), table)
    elif cluster is not None:
        made = quote(fleet_of_inventory(find_cluster(cluster).inventory()), table)
    names = [word.partition("=")[0] for word in machines]
    rented = offers(table, hours, names) if made is None or hours is not None else []
    bought = paybacks(table, hours) if made is None or hours is not None else []
    if as_json:
        told = {
            "as_of": str(table.as_of), "source": table.source, "currency": table.currency, "gpu_hours": hours,
            "quote": None if made is None else asdict(made) | {"hour": made.hour, "idle_hour": made.idle},
            "rent": [_plain_offer(one) for one in rented],
            "buy": [asdict(one) | {"purchase": one.purchase.model_dump()} for one in bought],
        }  # fmt: skip
        print(json.dumps(told, indent=1))  # noqa: T201 - the command line speaks
        return
    console = Console(highlight=False)
    if made is not None:
        show_quote(made, table, console)
    if rented:
        if hours is not None and not names:
            rented = cheapest_of_each_gpu(rented)
        show_offers(rented, table, hours, console)
        if note is not None:
            console.print(f"! {note}", style="yellow", markup=False)
    if bought:
        console.print()
        show_paybacks(bought, table, hours, console)
    if made is None:
        show_source(table, console)


def _plain_offer(offer: Any) -> dict[str, Any]:
    return asdict(offer) | {"machine": offer.machine.model_dump()}


def _plans_hours(path: Path) -> tuple[float, str]:
    """The GPU-hours that `tuneyard plan --json` expects, and on what they were measured.

    Raises:
        ClusterError: the file is not what that command prints, or the plan is for no GPU.
    """
    try:
        told = json.loads(path.read_text())
        hours, gpu, name = told["plan"]["costs"]["gpu_hours"], told["machine"]["gpu"], told["machine"]["name"]
        expected, high = float(hours["expected"]), float(hours["high"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{path} is no plan: {type(error).__name__}: {error}. Make one: tuneyard plan EXP --json >{path}"
        ) from error
    if gpu is None:
        raise ClusterError(
            f"{path} was measured without a GPU ({name}), and nobody can tell from it how long a GPU takes. Plan on a "
            "machine with a GPU such as you would rent, or guess: --gpu-hours N."
        )
    return expected, f"measured on {gpu}, perhaps up to {high:,.4g} hours; another GPU takes more or fewer"

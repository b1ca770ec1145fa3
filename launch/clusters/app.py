"""The commands for clusters: up, down, status, cost, drain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tuneyard.cluster.money.prices import PriceTable

app = typer.Typer()

ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="NAME", help="Which cluster; not needed where there is one. A Terraform folder: ./DIR."
    ),
]
PriceFile = Annotated[
    Path | None,
    typer.Option("--prices", metavar="FILE", help="Your own price file in place of the one that came along."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Agree beforehand: nothing is asked.")]
Gone = Annotated[
    list[str] | None,
    typer.Option(
        "--gone", metavar="NODE", help="On-prem: a machine that is gone for good, so that it is not asked to clean up."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def up(
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]...", help="The cluster's values: a YAML file, and what replaces them."
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="Which cluster, or the name of a new one.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="KIND", help="A new one is made of: aws, or onprem (your machines).")
    ] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be made, and its price.")] = False,
    variables: Annotated[bool, typer.Option("--variables", help="With --on: list what can be given, and end.")] = False,
    gone: Gone = None,
    prices: PriceFile = None,
) -> None:
    """Make a cluster, or change one: shows what will be made and what an hour costs, asks, and has Terraform do it.

    A new one: `tuneyard up --on aws`, or `tuneyard up lab.yaml`, a file with `kind: onprem`, `name: lab` and its hosts;
    what else can be given lists `tuneyard up --on aws --variables`.

    What was given stays: `tuneyard up workers=8` changes only that, and KEY=null goes back to the default. Entries of a
    map are reached by dots: workers.a100=2.
    """
    from tuneyard.launch.clusters.up_command import list_variables, up_command

    if variables:
        list_variables(on)
        return
    status = up_command(
        values or [], name=cluster, kind=on, yes=yes, dry_run=dry_run, gone=gone or [], table=_prices(prices)
    )
    raise typer.Exit(status)


@app.command()
def down(cluster: ClusterName = None, yes: Yes = False, gone: Gone = None) -> None:
    """End a cluster: shows what will be destroyed and what stays, asks, destroys, and looks that nothing else is left.

    The bucket of a cluster in AWS stays, with its runs. Exits 1 where something is left that should not be.
    """
    from tuneyard.launch.clusters.down_command import down_command

    raise typer.Exit(down_command(cluster, yes=yes, gone=gone or []))


@app.command()
def status(cluster: ClusterName = None, as_json: AsJson = False, prices: PriceFile = None) -> None:
    """Show a cluster's nodes and jobs, what it costs now, and what it has cost so far."""
    from tuneyard.launch.clusters.status_command import status_command

    raise typer.Exit(status_command(cluster, table=_prices(prices), as_json=as_json))


@app.command()
def cost(
    machines: Annotated[
        list[str] | None, typer.Argument(metavar="[MACHINE[=COUNT]]...", help="Such as m7i.xlarge g6.xlarge=4.")
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="The machines on spot: cheaper, and taken away at times.")
    ] = False,
    cluster: ClusterName = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="What `tuneyard plan EXP --json` printed: its GPU-hours."),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option("--gpu-hours", metavar="N", min=0.0, help="What so many GPU-hours cost.")
    ] = None,
    prices: PriceFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what machines, a cluster or a sweep cost: on demand, on spot, and against buying. Starts nothing.

    Without arguments: every machine with a GPU in the price file. What a cluster would cost that is not there yet:
    tuneyard up --dry-run.
    """
    from tuneyard.launch.clusters.cost_command import cost_command

    cost_command(
        machines or [], spot=spot, cluster=cluster, plan=plan, gpu_hours=gpu_hours, table=_prices(prices),
        as_json=as_json,
    )  # fmt: skip


@app.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name, address, or instance id.")],
    cluster: ClusterName = None,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            metavar="SECONDS",
            min=1.0,
            help="What has not left by then is ended; without: as long as the experiments' resources.leave_within_s.",
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring a drained node back: start its service anew.")] = False,
) -> None:
    """Take a node out of work, before it is switched off for example, and wait until it has none.

    Sweeps' trials on it save, leave and go on elsewhere, which does not count as a failure; it is given no new work.
    """
    from tuneyard.launch.clusters.drain_command import drain_command

    drain_command(node, cluster=cluster, within_s=within, undo=undo)


def _prices(path: Path | None) -> "PriceTable":
    from tuneyard.cluster.money.prices import TABLE, price_table

    return price_table(TABLE if path is None else path)

"""The command that checks machines: doctor."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def doctor(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXP]", help="An experiment file, whose store and settings are looked at.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="NAME", help="Every node of this cluster, and the network between."),
    ] = None,
    node: Annotated[
        Path | None, typer.Option("--node", metavar="FOLDER", help="On a node: as part of the cluster in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all that was measured.")] = False,
) -> None:
    """Check this machine, or every node of a cluster: GPUs, network, disks, clocks, S3, Comet, packages, Ray.

    Tells of each what was found and what to do. What it writes to the store it removes again. Exits 1 on a failure;
    a warning is none.
    """
    from tuneyard.launch.doctor.command import doctor_command

    status = doctor_command(experiment, overrides or [], cluster=cluster, node=node, show_json=as_json)
    raise typer.Exit(status)

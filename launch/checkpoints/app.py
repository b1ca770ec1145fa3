"""The command line of `tuneyard checkpoints …`. Each command imports what it needs, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated

import typer

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.stores.s3_options import S3Options

app = typer.Typer(
    name="checkpoints",
    help="List, verify, fetch, prune and export the checkpoints of runs and sweeps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, sweeps, or folders of them; paths or s3://.")]
EndpointUrl = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint other than AWS's.")]
Region = Annotated[str | None, typer.Option("--region", help="S3 region.")]
Best = Annotated[bool, typer.Option("--best", help="The one with the best metric.")]
Last = Annotated[bool, typer.Option("--last", help="The newest.")]
Step = Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="The one of this step.")]


@app.command("list")
def list_checkpoints(
    runs: Runs,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show the committed checkpoints: step, metric, size, what each holds alone, when and by whom it was saved."""
    from tuneyard.launch.checkpoints.commands import list_command

    list_command(runs, S3Options(endpoint_url=endpoint_url, region=region), as_json=as_json)


@app.command()
def verify(
    runs: Runs,
    newest: Annotated[bool, typer.Option("--newest", help="Only each run's newest checkpoint.")] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Read every byte and compare it with its digest. Exits 1 where one is damaged, and says which is whole."""
    from tuneyard.launch.checkpoints.commands import verify_command

    raise typer.Exit(verify_command(runs, S3Options(endpoint_url=endpoint_url, region=region), newest_only=newest))


@app.command()
def fetch(
    runs: Runs,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to copy into; it is made.")],
    best: Best = False,
    last: Last = False,
    step: Step = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Copy checkpoints and the runs' records into a folder, verified; all of each run, or one.

    The folder is laid out as any store: `compare` and `checkpoints` read it, and it can be an experiment's
    checkpoint.store.
    """
    from tuneyard.launch.checkpoints.commands import fetch_command

    which = _which(best=best, last=last, step=step)
    fetch_command(runs, S3Options(endpoint_url=endpoint_url, region=region), folder=to, which=which)


@app.command()
def prune(
    runs: Runs,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep each run's N newest; 1 unless given.")
    ] = None,
    keep_best: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Keep the N with the best metric; 1 unless given.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS", min=0.0, help="Delete only what was saved so many hours before its run's newest, or more."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also delete what saves that were cut off have left behind. Only where nobody is saving.",
        ),
    ] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Delete checkpoints, and the bytes that no other checkpoint needs. Safe while runs are training.

    What a checkpoint that stays still names is never deleted, whichever run of the sweep it belongs to.
    """
    from tuneyard.launch.checkpoints.prune import prune_command

    prune_command(
        runs, S3Options(endpoint_url=endpoint_url, region=region), keep_last=keep_last, keep_best=keep_best,
        older_than=older_than, dry_run=dry_run, yes=yes, force=force,
    )  # fmt: skip


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a sweep, whose winner is meant.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the two files; it is made.")],
    best: Best = False,
    last: Last = False,
    step: Step = None,
    averaged: Annotated[
        bool | None,
        typer.Option(
            "--averaged/--own", help="The average of train.ema_epochs, or the net's own weights; else what was judged."
        ),
    ] = None,
    project: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the experiment's task.py, where it has one.")
    ] = Path(),
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Write model.safetensors and config.json for other libraries, from the best checkpoint unless another is named.

    A timm model loads with timm.create_model("local-dir:DIR", pretrained=True), and with transformers'
    AutoModelForImageClassification.from_pretrained("DIR"); a transformers model of your own with the latter; any other
    with safetensors.torch.load_model.
    """
    from tuneyard.launch.checkpoints.commands import export_command

    export_command(
        run, S3Options(endpoint_url=endpoint_url, region=region), folder=to,
        which=_which(best=best, last=last, step=step) or "best", averaged=averaged, project=project,
    )  # fmt: skip


def _which(*, best: bool, last: bool, step: int | None) -> str | int | None:
    given = [("best", best), ("last", last), (step, step is not None)]
    chosen = [which for which, is_so in given if is_so]
    if len(chosen) > 1:
        raise ConfigError("Of --best, --last and --step only one can be given.")
    return chosen[0] if chosen else None

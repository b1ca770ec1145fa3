"""The command line: `tuneyard COMMAND …`. Each command imports what it needs, so that `--help` is quick."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from tuneyard.cluster.errors import ClusterError
from tuneyard.launch.checkpoints.app import app as checkpoints_app
from tuneyard.launch.clusters.app import app as cluster_app
from tuneyard.launch.doctor.app import app as doctor_app
from tuneyard.launch.jobs.app import app as jobs_app
from tuneyard.trainers.errors import InterruptedRunError, TuneyardError

app = typer.Typer(
    name="tuneyard",
    help="Train and tune image models on every GPU you can reach.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(checkpoints_app)
# Without a name of their own: their commands stand beside the others.
for _commands in (cluster_app, jobs_app, doctor_app):
    app.add_typer(_commands)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXP", help="The experiment file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file.")
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; it must not hold a project yet.")],
) -> None:
    """Make a starter project: experiment.yaml, its JSON schema for editors, and task.py."""
    from tuneyard.launch.init_command import make_project

    make_project(folder)


@app.command()
def train(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the newest run.")
    ] = False,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="With --resume: which run.")] = None,
) -> None:
    """Train one run here, without Ray: on the CPU, one GPU, or every GPU of this machine."""
    from tuneyard.launch.train_command import train_command

    train_command(experiment, overrides or [], resume=resume or run is not None, run_id=run)


@app.command()
def drill(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    worker: Annotated[
        int | None, typer.Option("--worker", metavar="RANK", min=0, help="Which worker, from 0; at random without.")
    ] = None,
    kill_with: Annotated[
        str, typer.Option("--signal", metavar="NAME", help="KILL: the worker dies. STOP: it hangs.")
    ] = "KILL",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Rehearse a loss: train here, kill a worker after a checkpoint, and measure how the run gets over it.

    It is a run of its own in the experiment's store, which ends when the drill is done: add the overrides that make it
    short. Reports the seconds until the loss was noticed and until the first step after it, and the steps done twice.
    Exits 1 where the run did not go on. STOP takes resources.hang_timeout_s to be noticed.
    """
    from tuneyard.launch.drill_command import drill_command

    status = drill_command(experiment, overrides or [], worker=worker, kill_with=kill_with, as_json=as_json)
    raise typer.Exit(status)


@app.command()
def tune(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Run what is missing of the newest sweep.")] = False,
    grow: Annotated[
        int | None,
        typer.Option(
            "--grow",
            metavar="N",
            min=1,
            help="Add N trials to the newest sweep; its tune section may have changed, and what fits is learned from.",
        ),
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            "--warm-start",
            metavar="SWEEP",
            help="Learn from another sweep first: an id of this experiment's, or a folder or URI. May be repeated.",
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="ID", help="With --resume or --grow: which sweep.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without it, a Ray on this machine.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the HTML report goes.")] = None,
) -> None:
    """Run a sweep with Ray Tune and report its trials, best first."""
    from tuneyard.launch.tune_command import tune_command

    tune_command(
        experiment, overrides or [], resume=resume or sweep is not None or grow is not None, grow=grow,
        warm_start=warm_start or [], sweep_id=sweep, address=address, report=report,
    )  # fmt: skip


@app.command()
def plan(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    configs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Measure so many of the configurations that the sweep may try.")
    ] = 4,
    steps: Annotated[int, typer.Option(min=3, metavar="N", help="Time so many training steps of each.")] = 30,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Runs at a time where the sweep will run; here: what fits."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what a sweep would do, take and cost, and how sure that is. Measures a few steps here; starts nothing."""
    from tuneyard.launch.plan.command import plan_command

    plan_command(experiment, overrides or [], configs=configs, steps=steps, parallel=parallel, as_json=as_json)


@app.command()
def compare(
    targets: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, sweeps, or folders of them; paths or s3://.")
    ],
    metric: Annotated[str | None, typer.Option(help="Rank by this metric instead of the sweep's own.")] = None,
    mode: Annotated[str | None, typer.Option(help="min or max; goes with --metric.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a self-contained HTML report.")] = None,
    limit: Annotated[int | None, typer.Option(help="Show only the best this many in the table.")] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="S3 endpoint other than AWS's.")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region.")] = None,
) -> None:
    """Show trials side by side: what differs, metrics, time, speed, learning curves."""
    from tuneyard.launch.compare_command import compare_command

    compare_command(
        targets,
        metric=metric,
        mode=mode,
        as_json=as_json,
        html=html,
        limit=limit,
        endpoint_url=endpoint_url,
        region=region,
    )


def run() -> None:
    """Entry point. A user's mistake is told without a traceback and exits 2; an obeyed signal exits 130."""
    # Before torch is imported, for GNU's OpenMP. Threads that spin long while they wait make training many times slower
    # as soon as anything else wants a core; threads that sleep at once make it slower on an idle machine. So they spin
    # briefly, then sleep: twice the pace beside three busy processes and none lost on idle cores, but nothing gained
    # beside one (benchmarks/shared_cores.py).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app(prog_name="tuneyard")
    except InterruptedRunError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line speaks
        sys.exit(128 + signal.SIGINT)
    except (TuneyardError, ClusterError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the command line speaks
        sys.exit(2)

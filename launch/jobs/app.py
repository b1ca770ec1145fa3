"""The commands for jobs on a cluster: submit, jobs, logs, stop. Each imports what it needs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="NAME", help="Which cluster, by its name or its Terraform folder."),
]
JobId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The job; see `tuneyard jobs`.")]


@app.command()
def submit(
    experiment: Annotated[Path, typer.Argument(metavar="EXP", help="The experiment file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file.")
    ] = None,
    cluster: Cluster = None,
    resume: Annotated[bool, typer.Option("--resume", help="Run what is missing of the newest sweep.")] = False,
    grow: Annotated[
        int | None, typer.Option("--grow", metavar="N", min=1, help="Add N trials to the newest sweep.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", metavar="ID", help="With --resume or --grow: which sweep.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Begins the job's id; the experiment's name if unset.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the job's log until it is over.")] = True,
) -> None:
    """Run a sweep on a cluster: send the experiment's folder, and follow the job.

    Data and keys do not travel: images belong into S3 or onto the nodes, which have credentials of their own. Ctrl-C
    leaves the job running. The exit status is the job's.
    """
    from tuneyard.launch.jobs.submit_command import Submission, submit_command

    wanted = Submission(cluster, name, resume, grow, sweep, follow)
    raise typer.Exit(submit_command(experiment, overrides or [], wanted))


@app.command()
def jobs(
    cluster: Cluster = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the jobs of a cluster, the newest first."""
    from tuneyard.launch.jobs.jobs_command import jobs_command

    jobs_command(cluster, as_json=as_json)


@app.command()
def logs(
    job: JobId = None,
    cluster: Cluster = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
) -> None:
    """Show what a job has printed; without an ID the newest one's."""
    from tuneyard.launch.jobs.jobs_command import logs_command

    raise typer.Exit(logs_command(job, cluster, following=follow))


@app.command()
def stop(job: JobId = None, cluster: Cluster = None) -> None:
    """Stop a job; without an ID the only one that runs. A sweep's trials save first, and --resume goes on."""
    from tuneyard.launch.jobs.jobs_command import stop_command

    raise typer.Exit(stop_command(job, cluster))

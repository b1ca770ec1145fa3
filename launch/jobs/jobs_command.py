"""`tuneyard jobs`, `logs` and `stop`: what runs on a cluster, what it says, and its end."""

import json
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.access.connection import Connection, connect
from tuneyard.cluster.amounts import duration_text
from tuneyard.cluster.provision.clusters import find_cluster
from tuneyard.launch.jobs.jobs import RESUME, Job, choose_job, list_jobs, read_log, stop_job
from tuneyard.launch.jobs.log import exit_status, follow_job, outcome

GAP = 2
LEFT = 130
"""The exit status of a command that Ctrl-C ended."""


def jobs_command(cluster: str | None, *, as_json: bool) -> None:
    """List the cluster's jobs."""
    with connect(find_cluster(cluster).inventory()) as connection:
        jobs = list_jobs(connection)
    if as_json:
        print(json.dumps([asdict(job) for job in jobs], indent=1))  # noqa: T201 - the command line speaks
        return
    console = Console(highlight=False)
    if not jobs:
        console.print("No jobs since the head started. tuneyard submit EXP makes one.")
        return
    console.print(_table(jobs, console.width))


def logs_command(job_id: str | None, cluster: str | None, *, following: bool) -> int:
    """Print a job's log; the exit status is the job's where it was followed to its end."""
    with connect(find_cluster(cluster).inventory()) as connection:
        job = choose_job(connection, job_id)
        console = Console(highlight=False, stderr=True)
        if following:
            return follow(connection, job.id, cluster, console)
        _write(read_log(connection, job.id))
        console.print(f"job {job.id}: {job.status}")
        return 0


def stop_command(job_id: str | None, cluster: str | None) -> int:
    """Ask a job to stop, and show what it says until it has."""
    with connect(find_cluster(cluster).inventory()) as connection:
        job = choose_job(connection, job_id, to_stop=True)
        console = Console(highlight=False, stderr=True)
        if job.over:
            console.print(f"Job {job.id} is over already: {job.status}.")
            return 0
        seen = len(read_log(connection, job.id))
        stop_job(connection, job.id)
        console.print(f"Job {job.id} is asked to stop; its trials save first. Ctrl-C leaves it to that.")
        try:
            job = follow_job(connection, job.id, _write, console.print, after=seen)
        except KeyboardInterrupt:
            console.print(f"It goes on stopping. See: {_again('logs', job.id, cluster)}")
            return LEFT
        console.print(outcome(job))
        if RESUME in job.metadata:
            console.print(f"Go on with it: {job.metadata[RESUME]}", soft_wrap=True)
        return 0


def follow(connection: Connection, job_id: str, cluster: str | None, console: Console) -> int:
    """Show the job's log until it is over; returns its exit status. Ctrl-C leaves the job running."""
    try:
        job = follow_job(connection, job_id, _write, console.print)
    except KeyboardInterrupt:
        console.print("\nThe job goes on.")
        come_back(job_id, cluster, console)
        return LEFT
    console.print(outcome(job), soft_wrap=True)
    return exit_status(job)


def come_back(job_id: str, cluster: str | None, console: Console) -> None:
    """Say how to see the job again, and how to end it."""
    console.print(f"  see it again:  {_again('logs', job_id, cluster)} --follow", soft_wrap=True)
    console.print(f"  stop it:       {_again('stop', job_id, cluster)}", soft_wrap=True)


def _again(command: str, job_id: str, cluster: str | None) -> str:
    return f"tuneyard {command} {job_id}" + (f" --cluster {cluster}" if cluster else "")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _table(jobs: list[Job], width: int) -> Table:
    columns: dict[str, list[str]] = {
        "job": [job.id for job in jobs],
        "status": [job.status for job in jobs],
        "began": [_when(job.started) for job in jobs],
        "took": ["" if job.seconds is None else duration_text(job.seconds) for job in jobs],
    }
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    room = width
    for heading, cells in columns.items():
        needed = max(map(len, [heading, *cells]))
        table.add_column(heading, no_wrap=True, min_width=needed)
        room -= needed + GAP
    table.add_column("command", no_wrap=True)
    for *cells, job in zip(*columns.values(), jobs, strict=True):
        # Where the terminal is narrow the command alone gives way; rich would shorten every column.
        command = Text(job.what)
        command.truncate(max(room - GAP, len("command")), overflow="ellipsis")
        table.add_row(*cells, command)
    return table


def _when(moment: float | None) -> str:
    return "" if moment is None else time.strftime("%m-%d %H:%M", time.localtime(moment))

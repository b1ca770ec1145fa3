"""The commands for jobs on a cluster: submit, jobs, logs, stop."""

import typer

app = typer.Typer()

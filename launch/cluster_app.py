"""The commands for clusters: up, down, status, cost, drain."""

import typer

app = typer.Typer()

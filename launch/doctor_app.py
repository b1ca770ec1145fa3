"""The command that checks machines: doctor."""

import typer

app = typer.Typer()

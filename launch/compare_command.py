"""`tuneyard compare`: runs and sweeps side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from rich.console import Console

from tuneyard.launch.compare_table import render
from tuneyard.trainers.errors import ConfigError, choose_from
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.tune.reports.comparison import compare
from tuneyard.tune.reports.comparison_form import to_json
from tuneyard.tune.reports.report import write_report


def compare_command(
    targets: Sequence[str], *, metric: str | None, mode: str | None, as_json: bool, html: Path | None,
    limit: int | None, endpoint_url: str | None, region: str | None,
) -> None:  # fmt: skip
    """Print a table or JSON, and write the report where asked."""
    if mode not in (None, "min", "max"):
        raise ConfigError(choose_from("--mode", mode, ["min", "max"]))
    if mode and not metric:
        raise ConfigError(
            "--mode goes with --metric: the sweep's own metric already says whether more or less is better."
        )
    chosen = cast(Literal["min", "max"] | None, mode)
    options = S3Options(endpoint_url=endpoint_url, region=region)
    comparison = compare(targets, metric=metric, mode=chosen, options=options)
    if as_json:
        print(json.dumps(to_json(comparison), indent=1))  # noqa: T201 - this is the output
    else:
        render(comparison, Console(highlight=False), limit)
    if html is not None:
        write_report(comparison, html)
        if not as_json:
            print(f"report: {html.absolute()}")  # noqa: T201 - this is the output

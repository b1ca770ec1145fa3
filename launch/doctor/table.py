"""What the doctor found, in the terminal and as JSON."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.doctor.findings import Finding, Report, Result

MARKS = {
    Result.OK: ("ok", "green"),
    Result.WARNING: ("warning", "yellow"),
    Result.FAILURE: ("FAILURE", "bold red"),
    Result.NOT_APPLICABLE: ("—", "dim"),
}
FEW_MACHINES = 4
"""Of more machines than these only what is not in order is shown."""


def render(reports: Sequence[Report], console: Console) -> None:
    """Print a table for each machine, and how many findings ask for something."""
    brief = len(reports) > FEW_MACHINES
    for report in reports:
        _machine(report, console, brief=brief)
    console.print(Text(summary(reports), _worst_style(reports)))


def as_json(reports: Sequence[Report]) -> str:
    """All findings, with their data."""
    return json.dumps([report.model_dump(mode="json") for report in reports], indent=1)


def failed(reports: Sequence[Report]) -> bool:
    """Is there a failure?"""
    return _count(reports, Result.FAILURE) > 0


def summary(reports: Sequence[Report]) -> str:
    """Such as `2 failures, 1 warning, 17 ok, 3 not applicable`."""
    failures, warnings = _count(reports, Result.FAILURE), _count(reports, Result.WARNING)
    return (
        f"{failures} failure{'' if failures == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}, "
        f"{_count(reports, Result.OK)} ok, {_count(reports, Result.NOT_APPLICABLE)} not applicable"
    )


def _machine(report: Report, console: Console, *, brief: bool) -> None:
    bad = [finding for finding in report.findings if finding.result in (Result.WARNING, Result.FAILURE)]
    shown = bad if brief else report.findings
    hidden = len(report.findings) - len(shown)
    told = f" · {hidden} in order, or not applicable" if hidden else ""
    console.print(Text.assemble((report.machine, "bold"), told))
    if shown:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 1))
        for width in (max(len(mark) for mark, _ in MARKS.values()), max(len(finding.name) for finding in shown)):
            table.add_column(min_width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for finding in shown:
            table.add_row(*_row(finding))
        console.print(table)
    console.print()


def _row(finding: Finding) -> tuple[Text, Text, Text]:
    mark, style = MARKS[finding.result]
    dim = "dim" if finding.result is Result.NOT_APPLICABLE else ""
    told = Text(finding.found, dim)
    if finding.advice:
        told.append(f"\n→ {finding.advice}", "cyan")
    return Text(mark, style), Text(finding.name, dim), told


def _count(reports: Sequence[Report], result: Result) -> int:
    return sum(finding.result is result for report in reports for finding in report.findings)


def _worst_style(reports: Sequence[Report]) -> str:
    for result in (Result.FAILURE, Result.WARNING):
        if _count(reports, result):
            return MARKS[result][1]
    return MARKS[Result.OK][1]

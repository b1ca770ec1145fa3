"""The comparison as one HTML file that needs nothing else: no network, no library, no second file."""

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tuneyard.trainers.errors import StoreError
from tuneyard.tune.reports.comparison import Comparison
from tuneyard.tune.reports.comparison_form import finite, to_json
from tuneyard.tune.reports.run_folders import Run

# Six digits are more than a screen can show, and halve the file of a sweep of hundreds of trials.
DIGITS = 6
TITLE_MARK = "{{title}}"
DATA_MARK = "{{data}}"


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report to `path`, making its folder; the same comparison always gives the same bytes.

    Raises `StoreError` where the file cannot be written.
    """
    page = report_html(comparison)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"The report cannot be written to {path}: {error.strerror}. Give another --html path."
        ) from error


def report_html(comparison: Comparison) -> str:
    """The page's text: `report.html` with the comparison and every learning curve in it as JSON."""
    data = to_json(comparison)
    for run, form in zip(comparison.runs, data["runs"], strict=True):
        form["history"] = _history(run)
    for short, form in zip(comparison.short_labels, data["trials"], strict=True):
        form["short"] = short
    template = files("tuneyard.tune.reports").joinpath("report.html").read_text(encoding="utf-8")
    # Split, not replaced one after the other: a run may be called like the second mark.
    before, rest = template.split(TITLE_MARK)
    between, after = rest.split(DATA_MARK)
    return before + html.escape(f"{comparison.name} · {comparison.metric.name}") + between + script_json(data) + after


def script_json(data: Any) -> str:
    """Strict JSON that can stand inside a <script> element, whatever names and error texts it holds."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # Inside <script> only the letter sequences `</script` and `<!--` are special; JSON may write "<" as an escape.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _history(run: Run) -> dict[str, list[float | None]]:
    """Each metric's values, epoch by epoch; None for an epoch without a finite one."""
    names = sorted({name for row in run.epochs for name in row})
    curves: dict[str, list[float | None]] = finite({name: _rounded(run.values(name)) for name in names})
    return curves


def _rounded(values: list[float]) -> list[float]:
    return [value if isinstance(value, int) else float(f"{value:.{DIGITS}g}") for value in values]

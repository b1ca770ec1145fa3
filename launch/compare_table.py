"""`tuneyard compare` in the terminal: a table of runs, best first, that gives up columns rather than wrap."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.tune.comparison import Comparison
from tuneyard.tune.run_folders import Run

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 16
# A longer setting (a list of transforms, a folder) would push out everything else; the report shows it whole.
CELL_WIDTH = 26
GAP = 2
# Settings beyond these give way to the status and the time, not the other way round.
FIRST_SETTINGS = 3
NONE = "—"
STYLES = {"completed": "green", "stopped": "yellow", "running": "cyan", "interrupted": "magenta", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. The higher its `rank`, the sooner it is left out where the terminal is narrow."""

    title: str
    cells: list[str]
    rank: int
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        """Terminal cells that it needs."""
        return min(CELL_WIDTH, max(cell_len(text) for text in (self.title, *self.cells)))


def render(comparison: Comparison, console: Console, limit: int | None = None) -> None:
    """Print the comparison: a headline, the first `limit` runs (all if None), the failed ones, and cautions."""
    _headline(comparison, console)
    listed = [
        (label, run)
        for label, run in zip(comparison.short_labels, comparison.runs, strict=True)
        if run.record.status != "failed" or run.best(comparison.metric)
    ]
    shown = listed[:limit]
    if shown:
        columns = _columns(comparison, shown)
        kept = fitting(columns, console.width)
        _table(console, kept)
        missing = [column.title for column in columns if column not in kept and column.title != "curve"]
        if missing:
            _line(console, f"Not shown, for want of width: {', '.join(missing)}.", "dim", wrap=True)
    if len(shown) < len(listed):
        _line(console, f"{len(listed) - len(shown)} more runs are not shown.", "dim")
    _failures(comparison, console)
    for caution in (*comparison.cautions, *comparison.unreadable):
        _line(console, f"! {caution}", "yellow", wrap=True)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into `width` terminal cells, in order; the first two always stay."""
    kept = list(columns)
    while len(kept) > 2 and sum(column.width + GAP for column in kept) - GAP > width:
        # Of equal ranks the last one goes first: the swept keys stand before the merely different ones.
        kept.remove(max(reversed(kept[2:]), key=lambda column: column.rank))
    return kept


def sparkline(values: list[float]) -> str:
    """The values as a line of blocks, from the lowest to the highest of them; a gap where one is not finite."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    low, span = min(finite), max(finite) - min(finite)
    if span == 0:
        return "".join(BLOCKS[3] if math.isfinite(value) else " " for value in values)
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round((value - low) / span * top)] if math.isfinite(value) else " " for value in values)


def short_names(keys: Sequence[str]) -> list[str]:
    """Each dotted key by as few of its last parts as tell it from the others."""

    def tail(key: str, depth: int) -> str:
        return ".".join(key.split(".")[-depth:])

    def shortest(key: str) -> str:
        depths = range(1, key.count(".") + 2)
        free = (depth for depth in depths if sum(tail(other, depth) == tail(key, depth) for other in keys) == 1)
        return tail(key, next(free, key.count(".") + 1))

    return [shortest(key) for key in keys]


def show(value: Any) -> str:
    """A setting or a metric in few characters: four digits, no trailing zeros; lists and dicts as JSON."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def duration(seconds: float) -> str:
    """Seconds as `12 s`, `3 m 05 s` or `1 h 02 m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


def _headline(comparison: Comparison, console: Console) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in comparison.statuses.items())
    total = len(comparison.runs)
    text = Text.assemble(
        (comparison.name, "bold"), f" · {total} run{'' if total == 1 else 's'}: {counts or 'none yet'}"
    )
    console.print(text)
    best = comparison.runs[0].best(comparison.metric) if comparison.runs else None
    if best is None:
        _line(console, f"No run has a value of {comparison.metric.name} yet.")
        return
    wanted = "highest" if comparison.metric.mode == "max" else "lowest"
    _line(
        console,
        f"{wanted} {comparison.metric.name}: {_metric(best.value)}, epoch {best.epoch} of {comparison.labels[0]}",
    )
    checkpoint = comparison.runs[0].checkpoint(comparison.metric)
    address = checkpoint or f"{comparison.runs[0].uri} (no checkpoint is kept)"
    # An address wants to be copied: the terminal may wrap it, but no line is broken.
    console.print(Text(address, "dim"), soft_wrap=True)


def _columns(comparison: Comparison, shown: Sequence[tuple[str, Run]]) -> list[Column]:
    metric, runs = comparison.metric, [run for _, run in shown]
    bests = [run.best(metric) for run in runs]
    epochs = [f"{best.epoch}/{len(run.epochs)}" if best else NONE for best, run in zip(bests, runs, strict=True)]
    columns = [
        Column("run", [_tail(label) for label, _ in shown], 0, "left"),
        Column(metric.name, [_metric(best.value if best else None) for best in bests], 0),
        Column("epoch", epochs, 4),
        Column("status", [run.record.status for run in runs], 3, "left"),
    ]
    titles = short_names(comparison.differing)
    for place, (key, title) in enumerate(zip(comparison.differing, titles, strict=True)):
        values = [run.setting(key) for run in runs]
        words = any(isinstance(value, str | list | dict) for value in values)
        rank = 2 if place < FIRST_SETTINGS else 6
        columns.append(Column(title, [show(value) for value in values], rank, "left" if words else "right"))
    columns.append(Column("last", [_metric(run.last.get(metric.name)) for run in runs], 8))
    if metric.name != "val/loss" and any("val/loss" in run.last for run in runs):
        columns.append(Column("val/loss", [_metric(run.last.get("val/loss")) for run in runs], 7))
    columns.append(Column("time", [duration(run.train_s) for run in runs], 5))
    columns.append(Column("images/s", [_rate(run.images_per_s) for run in runs], 9))
    if any(len(run.epochs) > 1 for run in runs):
        columns.append(Column("curve", [sparkline(_shortened(run.values(metric.name))) for run in runs], 10, "left"))
    return columns


def _table(console: Console, columns: list[Column]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        # Text, not str: a run or a setting may be called `[red]`.
        table.add_column(
            Text(column.title), justify=column.justify, no_wrap=True, overflow="ellipsis", max_width=CELL_WIDTH
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        cells = zip(columns, row, strict=True)
        table.add_row(*(Text(text, STYLES.get(text, "") if column.title == "status" else "") for column, text in cells))
    console.print(table)


def _failures(comparison: Comparison, console: Console) -> None:
    causes: dict[str, list[str]] = {}
    for label, run in sorted(zip(comparison.short_labels, comparison.runs, strict=True), key=lambda pair: pair[0]):
        if run.record.status == "failed":
            causes.setdefault(run.cause or "no cause was recorded", []).append(label)
    if causes:
        _line(console, "\nfailed", "bold red")
    for cause, labels in causes.items():
        # One bad setting fails a hundred trials in the same way: one line, not a hundred.
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        _line(console, f"{labels[0]}{more}: {cause}")


def _line(console: Console, text: str, style: str = "", *, wrap: bool = False) -> None:
    console.print(Text(text, style), no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", soft_wrap=False)


def _metric(value: float | None) -> str:
    """Four decimals for what is of the size of an accuracy or a loss, so that the points stand below one another."""
    if value is None or not math.isfinite(value):
        return NONE if value is None else str(value)
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3e}"


def _tail(label: str) -> str:
    """The end of a label is what tells it from others."""
    return label if len(label) <= CELL_WIDTH else f"…{label[1 - CELL_WIDTH :]}"


def _rate(rate: float | None) -> str:
    return NONE if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _shortened(values: list[float]) -> list[float]:
    """At most CURVE_WIDTH of the values, evenly spread, the last one always among them."""
    if len(values) <= CURVE_WIDTH:
        return values
    return [values[round((place + 1) * len(values) / CURVE_WIDTH) - 1] for place in range(CURVE_WIDTH)]

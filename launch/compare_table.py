"""`tuneyard compare` in the terminal: a table of trials, best first, that gives up columns rather than wrap."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.amounts import duration_text
from tuneyard.trainers.record import Metric
from tuneyard.tune.confirm import Confirmation
from tuneyard.tune.reports.comparison import Comparison, currency
from tuneyard.tune.reports.trial_runs import TrialRuns

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 16
# A longer setting (a list of transforms, a folder) would push out everything else; the report shows it whole.
CELL_WIDTH = 26
GAP = 2
# Settings beyond these give way to the status and the time, not the other way round.
FIRST_SETTINGS = 3
NONE = "—"
ON_FRONT = "★"
STYLES = {
    "completed": "green", "stopped": "yellow", "paused": "blue", "running": "cyan", "interrupted": "magenta",
    "failed": "red",
}  # fmt: skip


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
    """Print the comparison: a headline, the first `limit` trials (all if None), the failed ones, and cautions."""
    _headline(comparison, console)
    listed = [
        (f"{label} {ON_FRONT}" if front else label, trial)
        for label, front, trial in zip(comparison.short_labels, comparison.on_front, comparison.trials, strict=True)
        if trial.status != "failed" or trial.bests(comparison.metric)
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
        _line(console, f"{len(listed) - len(shown)} more {_word(comparison)}s are not shown.", "dim")
    _sweeps(comparison, console)
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


def _headline(comparison: Comparison, console: Console) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in comparison.statuses.items())
    metric, total, word = comparison.metric, len(comparison.trials), _word(comparison)
    runs = f" of {len(comparison.runs)} runs" if len(comparison.runs) > total else ""
    text = Text.assemble(
        (comparison.name, "bold"), f" · {total} {word}{'' if total == 1 else 's'}{runs}: {counts or 'none yet'}"
    )
    console.print(text)
    best = comparison.trials[0] if comparison.trials else None
    if best is None or not best.bests(metric):
        _line(console, f"No run has a value of {metric.name} yet.")
        return
    wanted = "highest" if metric.mode == "max" else "lowest"
    epoch = best.first.best(metric) if len(best.runs) == 1 else None
    where = f"epoch {epoch.epoch} of" if epoch else f"over {_folds(best, metric)} of"
    _line(console, f"{wanted} {metric.name}: {_value(best, metric)}, {where} {comparison.labels[0]}")
    address = best.checkpoint(metric) or f"{best.uri} (no checkpoint is kept)"
    # An address wants to be copied: the terminal may wrap it, but no line is broken.
    console.print(Text(address, "dim"), soft_wrap=True)


def _columns(comparison: Comparison, shown: Sequence[tuple[str, TrialRuns]]) -> list[Column]:
    metric, trials = comparison.metric, [trial for _, trial in shown]
    columns = [
        Column(_word(comparison), [_tail(label) for label, _ in shown], 0, "left"),
        Column(metric.name, [_value(trial, metric) for trial in trials], 0),
    ]
    columns += [
        Column(other.name, [_objective(trial.objective(other.name, metric)) for trial in trials], 1)
        for other in comparison.objectives
    ]
    if any(trial.wanted > 1 for trial in trials):
        columns.append(Column("folds", [_folds(trial, metric) for trial in trials], 1))
    columns.append(Column("epoch", [_epoch(trial, metric) for trial in trials], 4))
    columns.append(Column("status", [trial.status for trial in trials], 3, "left"))
    return columns + _setting_columns(comparison, trials) + _progress_columns(metric, trials)


def _setting_columns(comparison: Comparison, trials: Sequence[TrialRuns]) -> list[Column]:
    columns = []
    titles = short_names(comparison.differing)
    for place, (key, title) in enumerate(zip(comparison.differing, titles, strict=True)):
        values = [trial.first.setting(key) for trial in trials]
        words = any(isinstance(value, str | list | dict) for value in values)
        rank = 2 if place < FIRST_SETTINGS else 6
        columns.append(Column(title, [show(value) for value in values], rank, "left" if words else "right"))
    return columns


def _progress_columns(metric: Metric, trials: Sequence[TrialRuns]) -> list[Column]:
    columns = [Column("last", [_metric(trial.last.get(metric.name)) for trial in trials], 8)]
    if metric.name != "val/loss" and any("val/loss" in trial.last for trial in trials):
        columns.append(Column("val/loss", [_metric(trial.last.get("val/loss")) for trial in trials], 7))
    columns.append(Column("time", [duration_text(trial.train_s) for trial in trials], 5))
    columns.append(Column("images/s", [_rate(trial.images_per_s) for trial in trials], 9))
    curves = [trial.curve(metric.name) for trial in trials]
    if any(len(curve) > 1 for curve in curves):
        columns.append(Column("curve", [sparkline(_shortened(curve)) for curve in curves], 10, "left"))
    return columns


def _word(comparison: Comparison) -> str:
    """What a row is: a run, or a trial where some have several."""
    return "trial" if len(comparison.runs) > len(comparison.trials) else "run"


def _value(trial: TrialRuns, metric: Metric) -> str:
    std = trial.std(metric)
    return _metric(trial.value(metric)) + (f" ± {_metric(std)}" if std is not None else "")


def _folds(trial: TrialRuns, metric: Metric) -> str:
    """`5 folds`, or `3/5 folds` where some have no value (yet); `4 runs` of repeats that are not folds."""
    count, kind = len(trial.bests(metric)), "folds" if "fold" in trial.first.record.part else "runs"
    return f"{count} {kind}" if count >= trial.wanted else f"{count}/{trial.wanted} {kind}"


def _epoch(trial: TrialRuns, metric: Metric) -> str:
    """The best epoch of those trained; of several runs, how many epochs the longest has."""
    longest = max(len(run.epochs) for run in trial.runs)
    best = trial.first.best(metric)
    if best is None:
        return NONE
    return f"{best.epoch}/{longest}" if len(trial.runs) == 1 else str(longest)


def _sweeps(comparison: Comparison, console: Console) -> None:
    """What the sweeps came to beyond their best trial: the front, the confirmation, and what ended them."""
    if any(comparison.on_front):
        names = ", ".join(f"{each.name} ({each.mode})" for each in (comparison.metric, *comparison.objectives))
        _line(console, f"{ON_FRONT} on the Pareto front of {names}", wrap=True)
    for sweep in comparison.sweeps:
        if sweep.confirmation is not None:
            _confirmation(Confirmation.model_validate(sweep.confirmation), console)
        if sweep.ended_by is not None:
            _line(console, f"ended: {sweep.ended_by}", wrap=True)
        units = {"hours": "hours", "gpu_hours": "GPU-hours", "money": currency(sweep)}
        used = [f"{show(float(sweep.spent[key]))} {unit}" for key, unit in units.items() if sweep.spent.get(key)]
        if used:
            _line(console, f"spent: {', '.join(used)}", wrap=True)


def _confirmation(confirmation: Confirmation, console: Console) -> None:
    _line(console, f"\nconfirmed over {len(confirmation.seeds)} seeds", "bold")
    width = max((cell_len(trial.trial_id) for trial in confirmation.trials), default=0)
    for trial in confirmation.trials:
        spread = f" ± {_metric(trial.std)}" if trial.std is not None else ""
        _line(console, f"{trial.trial_id:<{width}}  {_metric(trial.mean)}{spread}")
    _line(console, confirmation.verdict.sentence, wrap=True)


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
    for label, trial in sorted(zip(comparison.short_labels, comparison.trials, strict=True), key=lambda pair: pair[0]):
        if trial.status == "failed":
            cause = trial.failed.cause if trial.failed else None
            causes.setdefault(cause or "no cause was recorded", []).append(label)
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


def _objective(value: float | None) -> str:
    """As a metric, but thousands (of images per second, of bytes) as whole numbers."""
    return f"{value:,.0f}" if value is not None and 1000 <= abs(value) < math.inf else _metric(value)


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

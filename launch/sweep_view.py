"""A sweep as it goes: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.record import Metric

SHOWN = 12
GAP = 2


class _Row:
    def __init__(self, overrides: dict[str, Any]) -> None:
        self.overrides = overrides
        self.status = "running"
        self.epoch = 0
        self.best: float | None = None
        self.speed = 0.0


class SweepView:
    """Told by the sweep what happens; shows the running trials and the best of the others."""

    def __init__(self, config: TuneConfig, epochs: int, console: Console, *, trials: int, ended: int) -> None:
        """`trials`: how many there are in all; `ended`: how many of them were done before a resume."""
        self._metric = Metric(name=config.metric, mode=config.mode)
        self._trials, self._ended_before = trials, ended
        self._epochs, self._console = epochs, console
        self._rows: dict[str, _Row] = {}
        self._began = time.monotonic()
        # Once a second, so that the clock goes on while Ray starts and while an epoch takes long.
        self._live = (
            Live(get_renderable=self._table, console=console, refresh_per_second=1, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None:
        """A run got its resources, for the first time or once more."""
        known = self._rows.get(run_id)
        if known is not None:
            known.status, known.overrides = "running", overrides
            self._show(f"trial {run_id} goes on after epoch {known.epoch}: {_short(overrides)}")
            return
        self._rows[run_id] = _Row(overrides)
        self._show(f"trial {run_id} began: {_short(overrides)}")

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None:
        """A trial finished an epoch."""
        shown = self._rows[run_id]
        value = row.get(self._metric.name)
        if value is not None and self._metric.better(value, shown.best):
            shown.best = value
        shown.epoch, shown.speed = int(row["epoch"]), row["images_per_s"]
        self._show(None)

    def trial_retried(self, run_id: str, error: str) -> None:
        """A run failed, and waits to be taken up again."""
        shown = self._rows[run_id]
        shown.status = "waiting"
        cause = error.splitlines()[0] if error else "it failed"
        self._show(f"trial {run_id} failed after epoch {shown.epoch} and is tried again: {cause}", lasting=True)

    def trial_moved(self, run_id: str, why: str) -> None:
        """A run's machine is being taken away."""
        shown = self._rows[run_id]
        shown.status = "waiting"
        self._show(f"trial {run_id} goes on elsewhere, after epoch {shown.epoch}: {why.splitlines()[0]}", lasting=True)

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None:
        """A run ended, one way or another, or was paused."""
        shown = self._rows[run_id]
        shown.status = status
        best = "-" if shown.best is None else f"{shown.best:.4f}"
        cause = f": {error.splitlines()[0]}" if error else ""
        self._show(
            f"[{self._ended}/{self._trials}] trial {run_id} {status} after epoch {shown.epoch}, "
            f"best {self._metric.name} {best}{cause}",
            lasting=status == "failed",
        )

    @property
    def _ended(self) -> int:
        return self._ended_before + sum(row.status not in ("running", "waiting") for row in self._rows.values())

    def _show(self, line: str | None, *, lasting: bool = False) -> None:
        if self._live:
            self._live.refresh()
        if line and (lasting or not self._live):
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {line}", soft_wrap=True, markup=False)

    def _table(self) -> Table:
        seconds = round(time.monotonic() - self._began)
        title = f"{self._ended} of {self._trials} trials, {seconds // 60}:{seconds % 60:02}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        headings = {"trial": 5, "status": 11, "epoch": 7, self._metric.name: 6, "images/s": 8}
        widths = {heading: max(width, len(heading)) for heading, width in headings.items()}
        for heading, width in widths.items():
            table.add_column(heading, no_wrap=True, min_width=width)
        table.add_column("parameters", no_wrap=True)
        # Where the terminal is narrow the parameters alone give way; rich would shorten every column.
        room = max(self._console.width - sum(widths.values()) - GAP * len(widths), 1)
        sign = -1.0 if self._metric.mode == "max" else 1.0

        def order(item: tuple[str, _Row]) -> tuple[bool, float]:
            return item[1].status != "running", float("inf") if item[1].best is None else sign * item[1].best

        for run_id, row in sorted(self._rows.items(), key=order)[:SHOWN]:
            best = "" if row.best is None else f"{row.best:.4f}"
            # Text, not str: a choice may be called `[red]`.
            drawn = Text(_short(row.overrides))
            drawn.truncate(room, overflow="ellipsis")
            table.add_row(run_id, row.status, f"{row.epoch}/{self._epochs}", best, f"{row.speed:,.0f}", drawn)
        return table


def _short(overrides: dict[str, Any]) -> str:
    return "  ".join(
        f"{key.rsplit('.', 1)[-1]}={value:.3g}" if isinstance(value, float) else f"{key.rsplit('.', 1)[-1]}={value}"
        for key, value in overrides.items()
    )

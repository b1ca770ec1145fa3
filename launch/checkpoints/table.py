"""`tuneyard checkpoints list` in the terminal and as JSON."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tuneyard.cluster.amounts import counted, size_text
from tuneyard.trainers.checkpoints.files import Found

NONE = "—"
BEST = "★"
GAP = 2
LESS_IMPORTANT = ("workers", "attempt", "saved at", "own")
"""Columns that a narrow terminal does without, in this order."""


@dataclass(slots=True)
class Row:
    """One checkpoint. `blobs`: name -> bytes; `own_bytes`: what no other listed checkpoint shares with it."""

    run: str
    step: int
    epoch: int
    metric: float | None
    size_bytes: int
    saved_at: str
    attempt: int
    workers: int
    best: bool
    last: bool
    uri: str
    blobs: dict[str, int]
    own_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """All but the names of the blobs."""
        return {
            "run": self.run, "step": self.step, "epoch": self.epoch, "metric": self.metric,
            "size_bytes": self.size_bytes, "own_bytes": self.own_bytes, "saved_at": self.saved_at,
            "attempt": self.attempt, "workers": self.workers, "best": self.best, "last": self.last, "uri": self.uri,
        }  # fmt: skip


def as_row(run: str, found: Found, uri: str, *, best: bool, last: bool) -> Row:
    """The row of one checkpoint; its own bytes are still to be counted."""
    place, manifest = found
    return Row(
        run=run, step=place.step, epoch=manifest.epoch, metric=manifest.score, size_bytes=manifest.size_bytes,
        saved_at=manifest.saved_at, attempt=manifest.attempt, workers=manifest.facts.world_size, best=best, last=last,
        uri=uri, blobs={blob.name: blob.size_bytes for part in manifest.parts.values() for blob in part.blobs},
    )  # fmt: skip


def count_own_bytes(rows: list[Row]) -> None:
    """Set the rows' `own_bytes`."""
    named: dict[str, int] = {}
    for row in rows:
        for name in row.blobs:
            named[name] = named.get(name, 0) + 1
    for row in rows:
        row.own_bytes = sum(size for name, size in row.blobs.items() if named[name] == 1)


def render(rows: list[Row], console: Console) -> None:
    """Print the table, and what all of them take together; of columns that do not fit, those that matter least go."""
    columns = _columns(rows)
    left_out: list[str] = []
    for title in LESS_IMPORTANT:
        if sum(max(map(len, [name, *cells])) + GAP for name, cells in columns.items()) - GAP <= console.width:
            break
        del columns[title]
        left_out.append(title)
    table = Table(box=None, pad_edge=False)
    for title in columns:
        table.add_column(title, justify="left" if title in ("run", "saved at", "") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    if rows:
        console.print(table)
    if left_out:
        console.print(f"Not shown, for want of width: {', '.join(left_out)}.")
    size = sum({name: size for row in rows for name, size in row.blobs.items()}.values())
    together = f"{counted(len(rows), 'checkpoint')}, {size_text(size)} together"
    console.print(f"{together}; own: not shared with another; {BEST} best")


def _columns(rows: list[Row]) -> dict[str, list[str]]:
    """Title -> cells."""
    return {
        "run": [row.run for row in rows],
        "step": [str(row.step) for row in rows],
        "epoch": [str(row.epoch) for row in rows],
        "metric": [NONE if row.metric is None else f"{row.metric:.4g}" for row in rows],
        "size": [size_text(row.size_bytes) for row in rows],
        "own": [size_text(row.own_bytes) for row in rows],
        "saved at": [row.saved_at[:16].replace("T", " ") for row in rows],
        "attempt": [str(row.attempt) for row in rows],
        "workers": [str(row.workers) for row in rows],
        "": [" ".join(word for word, is_so in ((BEST, row.best), ("last", row.last)) if is_so) for row in rows],
    }


def say(text: str) -> None:
    """A line of the command's own output."""
    print(text)  # noqa: T201 - the command line speaks

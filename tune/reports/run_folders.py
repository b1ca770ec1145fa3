"""The runs and sweeps that lie under a folder or a bucket's prefix, read from their records.

Imports neither Ray nor torch, so that `tuneyard compare` answers at once.
"""

import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tuneyard.trainers.errors import MissingKeyError, nearest
from tuneyard.trainers.record import (
    BestEpoch,
    Metric,
    RunRecord,
    SweepRecord,
    best_epoch,
    read_metrics,
    read_run,
    read_sweep,
)
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Run:
    """One run as its store tells it. `checkpoints` are the names of the folders of its committed checkpoints."""

    record: RunRecord
    epochs: list[dict[str, float]]
    uri: str
    checkpoints: tuple[str, ...] = ()

    @property
    def last(self) -> dict[str, float]:
        """The values of the newest epoch; empty before the first one has ended."""
        return self.epochs[-1] if self.epochs else {}

    @property
    def images_per_s(self) -> float | None:
        """The median over the epochs, so that a slow first epoch does not count."""
        rates = [rate for rate in self.values("images_per_s") if math.isfinite(rate)]
        return statistics.median(rates) if rates else None

    @property
    def train_s(self) -> float:
        """Seconds of training; for a run that has not ended, the sum of its epochs."""
        return self.record.train_s or sum(s for s in self.values("epoch_s") if math.isfinite(s))

    @property
    def cause(self) -> str | None:
        """The error on one line: the last line of a traceback, the first line of any other text."""
        lines = [line.strip() for line in (self.record.error or "").splitlines() if line.strip()]
        if not lines:
            return None
        return lines[-1] if any(line.startswith("Traceback (most recent call last)") for line in lines) else lines[0]

    def values(self, name: str) -> list[float]:
        """One value per epoch; NaN where an epoch does not have it."""
        return [row.get(name, math.nan) for row in self.epochs]

    def best(self, metric: Metric) -> BestEpoch | None:
        """The epoch with the best finite value, of equal ones the newest, or None."""
        if not self.epochs and self.record.metric == metric:
            # A record whose metrics.jsonl is gone still knows the best of its own metric.
            return self.record.best
        return best_epoch(self.epochs, metric)

    def at_best(self, metric: Metric) -> dict[str, float]:
        """Every value of the best epoch; empty without one."""
        best = self.best(metric)
        return next((row for row in self.epochs if best and row.get("epoch") == best.epoch), {})

    def checkpoint(self, metric: Metric) -> str | None:
        """URI of the best checkpoint that is still kept, which need not be of the best epoch."""
        kept = {int(found[0]): name for name in self.checkpoints if (found := re.match(r"\d+", name))}
        best = best_epoch([row for row in self.epochs if row.get("step") in kept], metric)
        return f"{self.uri}/checkpoints/{kept[best.step]}" if best else None

    def setting(self, key: str) -> Any:
        """The experiment's value at a dotted key; None where this run has no such key."""
        if key in self.record.overrides:
            return self.record.overrides[key]
        value: Any = self.record.experiment
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class Found:
    """What lies under one target. `runs`, `sweeps`: their key prefixes; `checkpoints`: run prefix -> folder names."""

    store: Store
    runs: tuple[str, ...]
    sweeps: tuple[str, ...]
    checkpoints: dict[str, list[str]]

    def read_run(self, prefix: str) -> Run:
        """The run under `prefix`, with every epoch so far."""
        uri = f"{self.store.uri}/{prefix}".rstrip("/")
        rows = [_numbers(row) for row in read_metrics(self.store, prefix)]
        return Run(read_run(self.store, prefix), rows, uri, tuple(self.checkpoints.get(prefix, ())))

    def read_sweep(self, prefix: str) -> SweepRecord:
        """The sweep under `prefix`."""
        return read_sweep(self.store, prefix)


def find_runs(target: str, options: S3Options | None = None) -> Found:
    """Every run and sweep in the folder `target`, at any depth: a local path, `file:///…`, or `s3://bucket/prefix`.

    Raises `MissingKeyError`, naming what is there instead, where there is none.
    """
    root = re.sub(r"/(run|sweep)\.json$", "", target).rstrip("/") or "/"
    path = _local_path(root)
    if path is not None and not path.is_dir():
        raise MissingKeyError(_nothing_at(target, path.name, *_folders_beside(path)))
    store = open_store(str(path or root), options)
    keys = store.keys("")
    runs = tuple(key.removesuffix("run.json") for key in keys if f"/{key}".endswith("/run.json"))
    sweeps = tuple(key.removesuffix("sweep.json") for key in keys if f"/{key}".endswith("/sweep.json"))
    if not runs and not sweeps:
        if path is not None:
            raise MissingKeyError(_nothing_at(target, "", str(path), [child.name for child in path.iterdir()]))
        parent, _, name = root.rpartition("/")
        beside = open_store(parent, options).keys("") if "://" in parent else []
        raise MissingKeyError(_nothing_at(target, name, parent, [key.split("/")[0] for key in beside]))
    checkpoints: dict[str, list[str]] = {}
    for key in keys:
        # A checkpoint exists only when its manifest does.
        if found := re.fullmatch(r"(|.*/)checkpoints/([^/]+)/manifest[^/]*", key):
            checkpoints.setdefault(found[1], []).append(found[2])
    return Found(store, runs, sweeps, checkpoints)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def _local_path(root: str) -> Path | None:
    """The folder that `root` names, or None for a store elsewhere."""
    if root.startswith("file://"):
        return Path(unquote(urlsplit(root).path))
    # Resolved, so that a run that is named in two ways still counts once.
    return None if "://" in root else Path(root).expanduser().resolve()


def _folders_beside(path: Path) -> tuple[str, list[str]]:
    """The first folder above `path` that exists, and what is in it."""
    above = next(parent for parent in path.parents if parent.is_dir())
    return str(above), [child.name for child in above.iterdir()]


def _nothing_at(target: str, name: str, where: str, there: list[str]) -> str:
    names = sorted(set(there))
    near = nearest(name, names)
    guess = f" Did you mean {near!r}?" if near else ""
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return (
        f"There is no run under {target!r}.{guess} In {where} there is: {listed or 'nothing'}."
        " Give the folder or URI of a run, of a sweep, or of several runs."
    )

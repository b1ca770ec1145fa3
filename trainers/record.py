"""The run record: everything that `compare`, `diagnose` and `predict` know about a run, kept beside its checkpoints.

Under a run's prefix lie `run.json` (a `RunRecord`), `metrics.jsonl` (one JSON object per finished epoch) and, where the
code differed from its commit, `git.diff`. Under a sweep's prefix lies `sweep.json` (a `SweepRecord`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

RunStatus = Literal["running", "paused", "completed", "stopped", "interrupted", "failed"]
SweepStatus = Literal["running", "completed", "interrupted", "failed"]
Record = TypeVar("Record", bound="Recorded")


class Recorded(BaseModel):
    """Base of what is read back from a store: newer versions may have added keys, which are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Metric(Recorded):
    """What runs are compared by."""

    name: str
    mode: Literal["min", "max"]

    def better(self, value: float | None, than: float | None) -> bool:
        """Is `value` better than `than`? NaN, infinity and None are never better than anything."""
        if value is None or not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value > than if self.mode == "max" else value < than

    def as_good(self, value: float | None, than: float | None) -> bool:
        """Is `value` better than `than`, or finite and equal to it?"""
        return self.better(value, than) or (value is not None and math.isfinite(value) and value == than)


class BestEpoch(Recorded):
    """The epoch with the best metric."""

    value: float
    epoch: int
    step: int


def better_epoch(row: Mapping[str, float], best: BestEpoch | None, metric: Metric) -> BestEpoch | None:
    """This epoch, where it is better than the best so far, or as good: of equal checkpoints too the newer counts."""
    value = row.get(metric.name)
    if value is None or not metric.as_good(value, best.value if best else None):
        return best
    return BestEpoch(value=value, epoch=int(row.get("epoch", 0)), step=int(row.get("step", 0)))


def best_epoch(rows: Iterable[Mapping[str, float]], metric: Metric) -> BestEpoch | None:
    """The best of these epochs, oldest first; None where none has a finite value."""
    best: BestEpoch | None = None
    for row in rows:
        best = better_epoch(row, best, metric)
    return best


class DataSummary(Recorded):
    """What the run was trained on. `normalization`: the mean and the standard deviation of each channel, of 0..1."""

    fingerprint: str
    classes: list[str]
    train: int
    validation: int
    test: int = 0
    skipped: list[str] = Field(default_factory=list)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None


class Memory(Recorded):
    """Peak memory of the training process, in bytes. `imports_bytes`: resident after the imports, before the data."""

    peak_bytes: int
    imports_bytes: int
    gpu_peak_bytes: int = 0


class RunRecord(Recorded):
    """`run.json`.

    A trial of a sweep is one run, or several that differ in `part`: {"fold": k} or {"seed": s}; `trial_id` is theirs in
    common. `undecided`: it failed, and its sweep had not yet said whether it is tried again: where that never came, it
    is. `cloned_from`: run ids that population-based training copied this one's state from, oldest first.
    `attempts` counts what failed or was cut short, and 1; `attempt` is the number that this attempt has claimed, where
    each leg of a sweep counts (see `checkpoints/fencing.py`).
    """

    format: int = 1
    run_id: str
    name: str
    sweep_id: str | None = None
    trial_id: str | None = None
    part: dict[str, int] = Field(default_factory=dict)
    status: RunStatus = "running"
    error: str | None = None
    out_of_memory: bool = False
    undecided: bool = False
    cloned_from: list[str] = Field(default_factory=list)
    metric: Metric
    experiment: dict[str, Any]
    overrides: dict[str, Any] = Field(default_factory=dict)
    parameters: int = 0
    git_commit: str | None = None
    git_dirty: bool = False
    environment: dict[str, Any] = Field(default_factory=dict)
    data: DataSummary | None = None
    started: str
    ended: str | None = None
    train_s: float = 0.0
    attempts: int = 1
    attempt: int = 0
    best: BestEpoch | None = None
    test: dict[str, float] | None = None
    memory: Memory | None = None
    tracking: dict[str, Any] = Field(default_factory=dict)


class SweepRecord(Recorded):
    """`sweep.json`.

    `trials`: run ids. `winner`: a trial's id, and `winner_runs` the runs that make it (its folds). `pareto`: trial ids,
    where there are several objectives. `ended_by`: which budget ended it. `grown_from`: the experiment's `tune`
    sections of before it grew.
    """

    format: int = 1
    sweep_id: str
    name: str
    status: SweepStatus = "running"
    metric: Metric
    experiment: dict[str, Any]
    trials: list[str] = Field(default_factory=list)
    started: str
    ended: str | None = None
    ended_by: str | None = None
    winner: str | None = None
    winner_runs: list[str] = Field(default_factory=list)
    winner_test: dict[str, float] | None = None
    pareto: list[str] = Field(default_factory=list)
    confirmation: dict[str, Any] | None = None
    out_of_fold: dict[str, Any] | None = None
    spent: dict[str, float] = Field(default_factory=dict)
    grown_from: list[dict[str, Any]] = Field(default_factory=list)


def now() -> str:
    """The time in UTC, as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(store: Store, prefix: str, record: RunRecord | SweepRecord) -> None:
    """Write `run.json` or `sweep.json` under `prefix`."""
    name = "run.json" if isinstance(record, RunRecord) else "sweep.json"
    store.put(prefix + name, record.model_dump_json(indent=1).encode())


def write_metrics(store: Store, prefix: str, rows: list[dict[str, float]]) -> None:
    """Write all epochs so far as `metrics.jsonl` under `prefix`."""
    store.put(prefix + "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_run(store: Store, prefix: str) -> RunRecord:
    """The record under `prefix`; MissingKeyError where there is no run, StoreError where the record is damaged."""
    return _read(store, prefix + "run.json", RunRecord)


def read_sweep(store: Store, prefix: str) -> SweepRecord:
    """The sweep under `prefix`; MissingKeyError where there is none, StoreError where the record is damaged."""
    return _read(store, prefix + "sweep.json", SweepRecord)


def read_metrics(store: Store, prefix: str) -> list[dict[str, float]]:
    """One row per finished epoch, in order; empty where no epoch has ended yet."""
    try:
        content = store.get(prefix + "metrics.jsonl")
    except MissingKeyError:
        return []
    try:
        return [json.loads(line) for line in content.decode().splitlines()]
    except ValueError as error:
        raise StoreError(f"{store.uri}/{prefix}metrics.jsonl is damaged: {error}") from error


def _read(store: Store, key: str, model: type[Record]) -> Record:
    try:
        return model.model_validate_json(store.get(key))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise StoreError(f"{store.uri}/{key} is damaged: {where}: {problem['msg']}") from error

"""Builds run and sweep records in a real store, as the trainer leaves them, for the tests of what reads them."""

import math
from pathlib import Path
from typing import Any

from tuneyard.trainers.record import (
    DataSummary,
    Metric,
    RunRecord,
    RunStatus,
    SweepRecord,
    write_metrics,
    write_record,
)
from tuneyard.trainers.stores.store import Store, open_store

ACCURACY = Metric(name="val/accuracy", mode="max")
SPACE = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "model.name": {"choice": ["reference/small-cnn", "timm/resnet18"]},
}


def store_at(folder: Path) -> Store:
    """A store in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return open_store(str(folder))


def experiment(overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """A resolved experiment with `overrides` (dotted key -> value) applied."""
    made: dict[str, Any] = {
        "name": "fashion",
        "task": "classification",
        "data": {"source": "fashion-mnist", "image_size": 28, "validation": {"split": 0.1, "seed": 0}},
        "model": {"name": "reference/small-cnn", "args": {}},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        "train": {"epochs": 3, "batch_size": 256, "seed": 0},
        "checkpoint": {"store": "runs"},
        "tune": {"metric": "val/accuracy", "mode": "max", "space": SPACE},
    }
    for key, value in (overrides or {}).items():
        *sections, leaf = key.split(".")
        section = made
        for name in sections:
            section = section.setdefault(name, {})
        section[leaf] = value
    return made


def epochs(accuracies: list[float]) -> list[dict[str, float]]:
    """One metrics row per value of val/accuracy; epochs from 1, ten steps each, losses that follow the accuracy."""
    return [
        {
            "epoch": number,
            "step": 10 * number,
            "train/loss": 1.0 - value / 2,
            "train/accuracy": min(1.0, value + 0.05),
            "val/loss": 1.1 - value / 2,
            "val/accuracy": value,
            "lr": 1e-3 / number,
            "images_per_s": 1000.0 * number,
            "epoch_s": 2.0,
        }
        for number, value in enumerate(accuracies, start=1)
    ]


def write_run(
    store: Store,
    prefix: str,
    accuracies: list[float],
    *,
    overrides: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    status: RunStatus = "completed",
    error: str | None = None,
    metric: Metric = ACCURACY,
    fingerprint: str = "4f1d0c2a",
    commit: str = "0d3c1f8e9a7b",
    dirty: bool = False,
    checkpoints: list[int] | None = None,
) -> None:
    """A run under `prefix` (which ends with "/"), named by its last folder.

    `overrides` were sampled by a sweep, `settings` stood in the experiment file; `checkpoints` are their steps.
    """
    folders = prefix.strip("/").split("/")
    record = RunRecord(
        run_id=folders[-1],
        name="fashion",
        sweep_id=folders[-2] if overrides else None,
        status=status,
        error=error,
        metric=metric,
        experiment=experiment({**(settings or {}), **(overrides or {})}),
        overrides=overrides or {},
        parameters=101_770,
        git_commit=commit,
        git_dirty=dirty,
        environment={"python": "3.11.7", "torch": "2.15.0", "device": "cpu"},
        data=DataSummary(fingerprint=fingerprint, classes=["shirt", "shoe"], train=54_000, validation=6_000),
        started="2026-11-21T20:00:00+00:00",
        ended=None if status == "running" else "2026-11-21T20:05:00+00:00",
        train_s=0.0 if status == "running" else 2.0 * len(accuracies),
    )
    write_record(store, prefix, record)
    if accuracies:
        write_metrics(store, prefix, epochs(accuracies))
    for step in checkpoints or []:
        store.put(f"{prefix}checkpoints/{step:010d}/manifest-0001.json", b"{}")


def write_sweep(store: Store, prefix: str, trials: list[str], *, metric: Metric = ACCURACY) -> None:
    """A finished sweep under `prefix` (which ends with "/")."""
    record = SweepRecord(
        sweep_id=prefix.strip("/").split("/")[-1],
        name="fashion",
        status="completed",
        metric=metric,
        experiment=experiment(),
        trials=trials,
        started="2026-11-21T20:00:00+00:00",
    )
    write_record(store, prefix, record)


def write_big_sweep(store: Store, count: int, *, length: int = 12) -> None:
    """A sweep of `count` trials in the folder `sweep/`: learning curves that depend on a learning rate and a model.

    Every seventh is stopped early, every eleventh failed, the last one is running. Without randomness.
    """
    names = [f"t{number:04d}" for number in range(count)]
    for number, name in enumerate(names):
        lr = 10 ** (-4 + 3 * ((number * 0.618034) % 1.0))
        model = "timm/resnet18" if number % 3 == 1 else "reference/small-cnn"
        top = 0.93 - 0.08 * (math.log10(lr) + 2.6) ** 2 + (0.015 if number % 3 == 1 else 0.0)
        status: RunStatus = "completed"
        if number % 11 == 10:
            status = "failed"
        elif number == count - 1 and count > 1:
            status = "running"
        elif number % 7 == 3:
            status = "stopped"
        ran = {"completed": length, "stopped": length // 3, "running": length // 2}.get(status, 0)
        curve = [top * (1 - 0.7 * math.exp(-(epoch + 1) / 2.5)) for epoch in range(ran)]
        overrides = {"optimizer.lr": lr, "model.name": model, "train.batch_size": 64 * 2 ** (number % 4)}
        error = None
        if status == "failed":
            error = (
                "Traceback (most recent call last):\n  …\ntorch.OutOfMemoryError: CUDA out of memory. Tried 2.50 GiB"
            )
        write_run(
            store,
            f"sweep/{name}/",
            curve,
            overrides=overrides,
            status=status,
            error=error,
            checkpoints=[10 * ran] if ran else [],
        )
    write_sweep(store, "sweep/", names)

"""Small runs in this process, on made images and a model of the user's own, for the tests of what a run does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunRecord, read_metrics, read_run
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store

TASK_PY = '''
"""A network without batch norm, so that its training does not depend on how a batch is cut."""

import os
import time

import torch
from torch import nn


def plain(channels: int, classes: int, width: int = 6, dropout: float = 0.0, wait_s: float = 0.0) -> nn.Module:
    return nn.Sequential(
        Wait(wait_s), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(width * 16, classes),
    )


class Wait(nn.Module):
    """Passes images on after a while, so that a run lasts long enough to be stopped."""

    def __init__(self, wait_s: float) -> None:
        super().__init__()
        self.wait_s = wait_s

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.wait_s)
        return images


class Failing(nn.Module):
    """Fails in the third training step of the second worker."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.inner, self.seen = plain(channels, classes), -1  # the check before training makes one forward pass

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        if self.seen == 3 and os.environ.get("RANK") == "1":
            raise RuntimeError("the second worker is out of luck")
        return self.inner(images)


class Poisoned(nn.Module):
    """Gives NaN from its `after`th training step on."""

    def __init__(self, channels: int, classes: int, after: int) -> None:
        super().__init__()
        self.inner = plain(channels, classes)
        self.after, self.seen = after, -1  # the check before training makes one forward pass

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        return self.inner(images) * (float("nan") if self.seen >= self.after and self.training else 1.0)
'''
EXPERIMENT: dict[str, Any] = {
    "name": "quadrants",
    "data": {"source": "npz:data.npz", "image_size": 8, "validation": {"split": 0.2}},
    "model": {"name": "task.py:plain"},
    "optimizer": {"lr": 0.01},
    "train": {"epochs": 3, "batch_size": 12},
    "tracking": {"comet": {"mode": "off"}},
}
STEPS_PER_EPOCH = 8
"""120 images, of which 96 are trained on, in batches of 12."""

Changes = Mapping[str, Any]


def make_project(folder: Path) -> None:
    """Write data.npz (120 images of 4 classes: which quadrant is bright; 40 more as test set) and task.py."""
    random = np.random.default_rng(7)
    images = random.integers(0, 120, (160, 8, 8), dtype=np.uint8)
    labels = np.arange(160) % 4
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 30
    np.savez(folder / "data.npz", x_train=images[:120], y_train=labels[:120], x_test=images[120:], y_test=labels[120:])
    (folder / "task.py").write_text(TASK_PY)


def make_spec(folder: Path, changes: Changes | None = None, **fields: Any) -> TrialSpec:
    """The spec of a run in `folder`, with these keys of its experiment changed; `fields` are TrialSpec's own."""
    if not (folder / "data.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_project(folder)
    tree = validate(EXPERIMENT, where="runs.py").model_dump(mode="json", exclude_unset=True)
    for key, value in (changes or {}).items():
        set_path(tree, key, value)
    places = {"store_uri": (folder / "runs").as_uri(), "tracking_dir": str(folder / "tracking")}
    experiment = validate(tree, where="runs.py")
    return TrialSpec(experiment=experiment, project_dir=str(folder), **{"run_id": "r1"} | places | fields)


class StopAfter:
    """Asks for a stop after so many steps of this attempt, and counts them."""

    def __init__(self, steps: int | None) -> None:
        self.steps, self.done = steps, 0

    def __call__(self) -> bool:
        self.done += 1
        return self.steps is not None and self.done >= self.steps


def train_run(spec: TrialSpec, *, stop_after: int | None = None, threads: int = 1) -> RunRecord:
    """Train `spec` here, on the CPU, and return its record; raises what the run raises."""
    record = train(spec, Session(threads=threads, cpu=True), Silent(), StopAfter(stop_after))
    assert record is not None
    return record


def stored_record(spec: TrialSpec) -> RunRecord:
    """The record as it lies in the store."""
    return read_run(open_store(spec.store_uri), spec.prefix)


def stored_rows(spec: TrialSpec) -> list[dict[str, float]]:
    """The epochs as they lie in the store, without what a clock has measured."""
    rows = read_metrics(open_store(spec.store_uri), spec.prefix)
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]


def checkpoints_of(spec: TrialSpec) -> Checkpoints:
    """The checkpoints of a run that has ended."""
    return Checkpoints(open_store(spec.store_uri), spec.prefix, spec.blob_prefix)


def stored_weights(spec: TrialSpec) -> dict[str, torch.Tensor]:
    """The weights of the newest checkpoint."""
    weights: dict[str, torch.Tensor] = checkpoints_of(spec).load_parts(["model"])["model"]
    return weights


def same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Are these the same weights, to the last bit?"""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

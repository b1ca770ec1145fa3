"""Small sweeps with a model of the user's own that can fail in every way, for the tests of what a sweep does."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.trainers import runs
from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.record import RunRecord, SweepRecord, read_metrics, read_run
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.tune.sweep import RAY_ENVIRONMENT, SweepRequest, run_sweep

TASK_PY = '''
"""A network that trains well, or does what its `kind` says. Tells in trace.jsonl which process built it, and where."""

import json
import logging
import os
import shutil
import tempfile
import signal
import time
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, channels: int, classes: int, kind: str = "good", wait_s: float = 0.0, number: int = 0) -> None:
        super().__init__()
        if kind == "unbuildable":
            raise ValueError("no such network")
        self.kind, self.wait_s, self.number, self.classes = kind, wait_s, number, classes
        self.steps = -1  # the check before training makes one forward pass
        self.inner = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, classes)
        )
        line = {"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), "kind": kind}
        with (Path(__file__).parent / "trace.jsonl").open("a") as trace:
            trace.write(json.dumps(line) + "\\n")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.wait_s)
        self.steps += self.training
        if self.steps == 10 and self.kind == "raises":
            raise RuntimeError("out of luck")
        if self.steps == 10 and self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 10 and self.kind == "hangs":
            time.sleep(600)
        if self.kind == "poor":
            # Surer and surer that everything is of class 0: the higher its number, the higher its loss.
            sure = torch.zeros(self.classes, device=images.device)
            sure[0] = self.number
            return self.inner(images) * 0.0 + sure
        poisoned = self.steps >= 10 and self.kind == "nan"
        return self.inner(images) * (float("nan") if poisoned else 1.0)
'''
EPOCHS = 3
EXPERIMENT: dict[str, Any] = {
    "name": "quadrants",
    "data": {"source": "npz:data.npz", "image_size": 8, "validation": {"split": 0.2}},
    "model": {"name": "task.py:Net"},
    "optimizer": {"lr": 0.02},
    "train": {"epochs": EPOCHS, "batch_size": 12},
    "resources": {"gpus_per_worker": 0},
    "tracking": {"comet": {"mode": "off"}},
    "tune": {
        "search": "random", "scheduler": "none", "trials": 4, "space": {"optimizer.lr": {"loguniform": [0.001, 0.05]}},
    },
}  # fmt: skip
"""Eight steps an epoch, on 96 images of `runs.make_project`, which has a test set."""

SWEEP_ID = "s1"
PREFIX = f"quadrants/{SWEEP_ID}/"


def make_project(folder: Path) -> None:
    """data.npz, and a task.py with the network."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.make_project(folder)
    (folder / "task.py").write_text(TASK_PY)


def experiment_tree(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment, with these keys changed."""
    tree: dict[str, Any] = json.loads(json.dumps(EXPERIMENT))
    for key, value in changes.items():
        set_path(tree, key, value)
    return tree


@dataclass
class Heard:
    """What a sweep told, in order."""

    began: list[str] = field(default_factory=list)
    rows: list[tuple[str, int]] = field(default_factory=list)
    retried: list[tuple[str, str]] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    ended: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None:
        self.began.append(run_id)

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None:
        self.rows.append((run_id, int(row["epoch"])))

    def trial_retried(self, run_id: str, error: str) -> None:
        self.retried.append((run_id, error))

    def trial_moved(self, run_id: str, why: str) -> None:
        self.moved.append((run_id, why))

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None:
        self.ended[run_id] = (status, error)


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended, and all that it left behind."""

    folder: Path
    sweep: SweepRecord
    heard: Heard

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "runs"))

    @property
    def records(self) -> dict[str, RunRecord]:
        return {run_id: read_run(self.store, f"{PREFIX}{run_id}/") for run_id in self.sweep.trials}

    def epochs(self, run_id: str) -> list[int]:
        return [int(row["epoch"]) for row in read_metrics(self.store, f"{PREFIX}{run_id}/")]

    @property
    def built(self) -> list[dict[str, Any]]:
        """A line for each network that was built: pid, cores, kind."""
        return built_in(self.folder)


def built_in(folder: Path) -> list[dict[str, Any]]:
    """A line for each network that a project's processes have built."""
    trace = folder / "trace.jsonl"
    return [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []


def sweep(
    folder: Path, changes: Mapping[str, Any], *, resume: bool = False, stop_when: Callable[[Heard], bool] | None = None,
    grow: int | None = None, warm_start: Sequence[str] = (),
) -> Swept:  # fmt: skip
    """Run a sweep in `folder` on the Ray that is there, until it ends or `stop_when` says so."""
    if not (folder / "task.py").exists():
        make_project(folder)
    base = TrialSpec(
        run_id=SWEEP_ID, experiment=validate(experiment_tree(changes), where="sweeps.py"), project_dir=str(folder),
        store_uri=(folder / "runs").as_uri(), tracking_dir=str(folder / "tracking"),
    )  # fmt: skip
    heard = Heard()
    asked: list[bool] = []

    def should_stop() -> bool:
        if stop_when is not None and not asked and stop_when(heard):
            asked.append(True)
        return bool(asked)

    request = SweepRequest(
        base, SWEEP_ID, resume, os.environ.get("RAY_ADDRESS"), should_stop, grow=grow, warm_start=tuple(warm_start)
    )
    record = run_sweep(request, heard)
    return Swept(folder, record, heard)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def machines(cores: Sequence[int]) -> Iterator[Any]:
    """Machines with so many cores each, as raylets of their own; the driver is on the first."""
    # The locks of cores lie in TMPDIR: other sweeps on this machine must not take them.
    folder = tempfile.mkdtemp(prefix="ty-")
    with environment(RAY_ENVIRONMENT | {"TMPDIR": folder}):
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": cores[0], "include_dashboard": False})
        for count in cores[1:]:
            made.add_node(num_cpus=count)
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield made
        ray.shutdown()
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def ray_of_two_cores() -> Iterator[None]:
    """A Ray of two cores on this machine, for the sweeps of a whole module: each one would pay for its start."""
    # The locks of cores lie in TMPDIR: other sweeps on this machine must not take them.
    folder = tempfile.mkdtemp(prefix="ty-")
    with environment(RAY_ENVIRONMENT | {"TMPDIR": folder}):
        import ray

        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )  # fmt: skip
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)

"""Single trials on a Ray, without a sweep around them: the Trainable in an actor, its workers in its own bundles."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.trainers import runs
from tests.tune.sweeps import environment
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.sweep import RAY_ENVIRONMENT

TASK_PY = '''
"""A network that trains well, or does on one worker what its `kind` says, in its second epoch."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

HELD = []


class Net(nn.Module):
    def __init__(self, channels: int, classes: int, kind: str = "good", rank: int = 1) -> None:
        super().__init__()
        self.kind, self.mine = kind, os.environ.get("RANK", "0") == str(rank)
        self.steps = -1  # the check before training makes one forward pass
        self.inner = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, classes)
        )
        if kind == "unbuildable":
            raise ValueError("no such network")
        (Path(__file__).parent / f"pid-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 10 and self.mine:
            self.misbehave()
        poisoned = self.steps >= 10 and self.kind == "nan"
        return self.inner(images) * (float("nan") if poisoned else 1.0)

    def misbehave(self) -> None:
        if self.kind == "raises":
            raise RuntimeError("out of luck")
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.kind == "exits":
            raise SystemExit(1)
        once = Path(__file__).parent / "stopped"
        if self.kind == "stopped" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "hangs":
            time.sleep(600)
        if self.kind == "no memory":
            torch.empty(2**62, dtype=torch.uint8)
        if self.kind == "greedy":
            HELD.append(torch.ones(300_000_000, dtype=torch.uint8))
'''
EPOCHS = 3


def make_spec(folder: Path, run_id: str, changes: Mapping[str, Any] | None = None, **fields: Any) -> TrialSpec:
    """A run of a sweep in `folder`, of eight steps an epoch and three epochs."""
    if not (folder / "task.py").exists():
        folder.mkdir(parents=True, exist_ok=True)
        runs.make_project(folder)
        (folder / "task.py").write_text(TASK_PY)
    every = {"model.name": "task.py:Net", "optimizer.lr": 0.02, **(changes or {})}
    return runs.make_spec(folder, every, **{"run_id": run_id, "sweep_id": "s1", "evaluate_test": False, **fields})


def config_of(spec: TrialSpec | None, *, workers: int = 1, memory_gb: float | None = None) -> dict[str, Any]:
    """Ray's config of one leg; without a spec a trial whose values do not go together."""
    leg = {"run_id": "refused", "refused": "no"} if spec is None else {"run_id": spec.run_id}
    if spec is not None:
        leg["spec"] = spec.model_dump_json()
    same = {"workers": workers, "cpus": 1, "gpus": 0.0, "cpu_only": True, "memory_gb": memory_gb, "sweep_id": "s1"}
    return leg | same


class Kept:
    """A Trainable in a process of its own, with a bundle of one core for each worker.

    impatient: with little patience after a failure. The spec says how long an exchange may take.
    """

    def __init__(
        self, config: dict[str, Any], *, second: Mapping[str, float] | None = None, impatient: bool = False
    ) -> None:  # fmt: skip
        """`second`: what the bundle of the second worker asks for besides its core."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from tuneyard.tune.trial import Trial

        bundles = [{"CPU": 1.0} for _ in range(config["workers"])]
        bundles[-1] |= second or {}
        self.group = ray.util.placement_group(bundles)
        ray.get(self.group.ready(), timeout=60)
        place = PlacementGroupSchedulingStrategy(
            self.group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        kind = _impatient(Trial) if impatient else Trial
        self.actor: Any = ray.remote(kind).options(num_cpus=1, scheduling_strategy=place).remote(config=dict(config))

    def step(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """One epoch; raises what the trial raises."""
        import ray

        result: dict[str, Any] = ray.get(self.actor.train.remote(), timeout=timeout_s)
        return result

    def to_the_end(self) -> list[dict[str, Any]]:
        """All results of the leg."""
        results = [self.step()]
        while not results[-1]["done"]:
            results.append(self.step())
        return results

    def take(self, config: dict[str, Any]) -> None:
        """The next leg."""
        import ray

        assert ray.get(self.actor.reset.remote(dict(config)), timeout=60)

    def close(self, *, killed: bool = False) -> None:
        """Let the trial clean up, as Ray Tune does, and give its bundles back."""
        import ray

        if not killed:
            ray.get(self.actor.stop.remote(), timeout=60)
        with suppress(ray.exceptions.RayActorError):
            ray.kill(self.actor)
        ray.util.remove_placement_group(self.group)


def _impatient(trial: type) -> type:
    class Impatient(trial):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            from tuneyard.tune import workers

            workers.LOSS_S, workers.LEAVE_S = 1.0, 1.0
            super().setup(config)

    return Impatient


@contextmanager
def own_locks() -> Iterator[None]:
    """The environment of a Ray for tests: the locks of cores lie in TMPDIR, and others on this machine hold some."""
    folder = tempfile.mkdtemp(prefix="ty-")
    with environment(RAY_ENVIRONMENT | {"TMPDIR": folder}):
        yield
    shutil.rmtree(folder, ignore_errors=True)

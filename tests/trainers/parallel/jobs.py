"""Runs for kept workers, one after the other, and where their results lie."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.trainers.runs import make_project, make_spec, stored_rows, stored_weights
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.spec import TrialSpec

ROOT = Path(__file__).parents[3]
SPLIT_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}}
"""zero3 would keep parameters as small as these whole on every worker."""
STEPS = 10  # in an epoch of 96 images in batches of 9, of which one worker has 5 and the other 4
MODELS = '''

def odd(channels: int, classes: int) -> nn.Module:
    """Without batch norm, and with sizes that two workers cannot share evenly."""
    return nn.Sequential(
        nn.Conv2d(channels, 7, 3, padding=1), nn.GroupNorm(1, 7), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(7 * 16, classes),
    )


def normed(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        # Several input channels: in the memory layout of images DeepSpeed would refuse these weights.
        nn.Conv2d(6, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(96, classes),
    )
'''
ADAMW = {"name": "adamw", "lr": 0.01}
SGD = {"name": "sgd", "lr": 0.05}


class Jobs:
    """Runs for kept workers: how they are to be trained, and where their results lie."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs, self.specs = folder, list[dict[str, Any]](), dict[str, TrialSpec]()
        make_project(folder)
        (folder / "task.py").write_text((folder / "task.py").read_text() + MODELS)
        (folder / "deepspeed.json").write_text(json.dumps(SPLIT_ALL))

    def spec(self, run_id: str, strategy: str, **changes: Any) -> TrialSpec:
        """20 steps of the model `odd`; the changes' dots are written as two underscores."""
        tree = {"model.name": "task.py:odd", "train.epochs": 2, "train.batch_size": 9, "train.strategy": strategy}
        if strategy != "ddp":
            tree["train.deepspeed.config"] = "deepspeed.json"
        tree |= {name.replace("__", "."): value for name, value in changes.items()}
        return make_spec(self.folder, tree, run_id=run_id)

    def add(
        self, run_id: str, strategy: str, *, stop_after: int | None = None, alone: bool = False, **changes: Any
    ) -> None:  # fmt: skip
        """Train this run, or go on with it where it was added before."""
        spec = self.spec(run_id, strategy, **changes).model_copy(update={"resume": run_id in self.specs})
        self.specs[run_id] = spec
        self.jobs.append({"spec": spec.model_dump(mode="json"), "stop_after": stop_after, "alone": alone})

    def train(self, workers: int = 2) -> list[list[dict[str, float]]]:
        """Do all jobs that were added since; what each took, for each worker."""
        path = self.folder / "jobs.json"
        path.write_text(json.dumps(sorted(self.jobs, key=lambda job: not job["alone"])))
        port = process_group.free_port()
        command = [sys.executable, "-m", "tests.trainers.parallel.kept_worker", str(path)]
        told = [self.folder / f"told-{rank}.txt" for rank in range(workers)]
        processes = []
        for rank in range(workers):
            with told[rank].open("wb") as out:
                arguments = [*command, str(rank), str(workers), str(port)]
                processes.append(subprocess.Popen(arguments, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT))
        try:
            while any(one.poll() is None for one in processes) and not any(one.poll() for one in processes):
                time.sleep(0.05)
        finally:
            for one in processes:
                one.kill()
                one.wait()
        self.jobs.clear()
        self.said = [path.read_text() for path in told]
        assert [one.returncode for one in processes] == [0] * workers, "\n".join(self.said)
        return [json.loads((self.folder / f"out-{rank}.json").read_text()) for rank in range(workers)]

    def weights(self, run_id: str) -> dict[str, torch.Tensor]:
        return stored_weights(self.specs[run_id])

    def rows(self, run_id: str) -> list[dict[str, float]]:
        return stored_rows(self.specs[run_id])

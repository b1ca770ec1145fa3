"""What `recovery.py` starts: a network, ours with a worker that is killed, and torchrun's worker.

    python recovery_sides.py ours FOLDER KEEP_SPARE      kills worker 1 and prints the seconds as JSON
    torchrun … recovery_sides.py worker FOLDER           trains with DDP until it is ended

FOLDER has data.npz. At the top torch alone is imported, as in a script of one's own.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from tuneyard.trainers.parallel.supervisor import Loss, Recovery, Supervisor
    from tuneyard.trainers.spec import TrialSpec

BATCH_SIZE = 64
IMAGE_SIZE = 16
CLASSES = 4


class Rest(nn.Module):
    """Leaves the cores alone for a moment in each step, as workers on GPUs do: a spare is ready sooner."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same images."""
        time.sleep(0.02)
        return images


def network(channels: int, classes: int) -> nn.Module:
    """The model of both sides."""
    return nn.Sequential(
        Rest(), nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (IMAGE_SIZE // 4) ** 2, classes),
    )  # fmt: skip


def train_under_torchrun(folder: Path) -> None:
    """A plain script: join, load the newest checkpoint, train, save after every epoch."""
    import numpy as np
    import torch.distributed as dist

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, attempt = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"]
    arrays = np.load(folder / "data.npz")
    images = torch.from_numpy(arrays["x_train"])[:, None].float().div_(255.0)
    labels = torch.from_numpy(arrays["y_train"])
    model = nn.parallel.DistributedDataParallel(network(1, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    path, epoch = folder / "checkpoint.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch = saved["epoch"]
    (folder / f"pid-{attempt}-{rank}").write_text(str(os.getpid()))
    first = True
    while True:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for batch in order[: len(order) // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE):
            own = batch[rank :: dist.get_world_size()]
            loss = nn.functional.cross_entropy(model(images[own]), labels[own])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if first and rank == 0:
                first = False
                _write(folder / f"first-{attempt}", str(time.monotonic_ns()).encode())
        epoch += 1
        if rank == 0:
            unfinished = path.with_suffix(".new")
            torch.save(
                {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, unfinished
            )
            unfinished.replace(path)


class Killer:
    """The observer of our run: kills worker 1 once there is a checkpoint, and a spare if one is wanted; then stops."""

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints
        self._killed_ns = 0
        self.seconds: float | None = None

    def look(self, supervisor: "Supervisor") -> None:
        """A few times a second."""
        if self.seconds is not None:
            supervisor.stop()
            return
        ready = not self._killed_ns and supervisor.stepping and supervisor.spares_ready
        if ready and any(self._checkpoints.glob("*/manifest-*.json")):
            self._killed_ns = time.monotonic_ns()
            os.kill(supervisor.workers[1].pid, signal.SIGKILL)

    def lost(self, loss: "Loss") -> None:
        """Nothing."""

    def recovered(self, recovery: "Recovery") -> None:
        """From the signal to the first step after it."""
        self.seconds = (recovery.first_step_ns - self._killed_ns) / 1e9


def train_ours(folder: Path, spares: int) -> float:
    """Our run, of which worker 1 is killed; the seconds to the first step after it."""
    from tuneyard.trainers.errors import InterruptedRunError
    from tuneyard.trainers.parallel.processes import train_in_processes

    spec = _spec(folder, spares)
    killer = Killer(folder / "runs" / spec.prefix / "checkpoints")
    try:
        train_in_processes(spec, 2, 1, killer)
    except InterruptedRunError:
        if killer.seconds is None:
            raise
    assert killer.seconds is not None, "the run ends when it is known"
    return killer.seconds


def _spec(folder: Path, spares: int) -> "TrialSpec":
    from tuneyard.trainers.config.loading import validate
    from tuneyard.trainers.spec import TrialSpec

    experiment = validate(
        {
            "name": "recovery",
            "data": {"source": "npz:data.npz", "image_size": IMAGE_SIZE, "cache_dir": str(folder / "cache")},
            "model": {"name": f"{Path(__file__).resolve()}:network"},
            "train": {"epochs": 100_000, "batch_size": BATCH_SIZE},
            "tracking": {"comet": {"mode": "off"}},
            "resources": {"workers": 2, "gpus_per_worker": 0, "cpus_per_worker": 1, "spare_workers": spares},
        },
        where="the benchmark",
    )
    return TrialSpec(
        run_id="r1", experiment=experiment, project_dir=str(folder), store_uri=(folder / "runs").as_uri(),
        tracking_dir=str(folder / "tracking"),
    )  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, for a reader that waits for it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(content)
    unfinished.replace(path)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        train_under_torchrun(Path(sys.argv[2]))
    else:
        print(json.dumps(train_ours(Path(sys.argv[2]), int(sys.argv[3]))), flush=True)

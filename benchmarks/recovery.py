"""Seconds from a worker's SIGKILL to the next optimizer step: our warm spare against torchrun's own restart.

Two gloo workers on the CPU train the same network on the same images, and save after every epoch. Once a checkpoint
is there, and our spare is ready, worker 1 is killed. torchrun starts all its workers anew. With --cold ours without a
spare is measured too: the same way, with a new process in the lost worker's place.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import Target, in_turns, ratios, report
from recovery_sides import CLASSES, IMAGE_SIZE

SIDES = Path(__file__).with_name("recovery_sides.py")
PATIENCE_S = 240.0
SPARE, COLD, TORCHRUN = "ours, warm spare", "ours, no spare", "torchrun --max-restarts"


def ours(spares: int) -> float:
    """One run of ours; the seconds."""
    with project() as folder:
        done = subprocess.run(
            [sys.executable, str(SIDES), "ours", folder, str(spares)], check=True, stdout=subprocess.PIPE, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1]))


def torchrun() -> float:
    """One run under torchrun; the seconds."""
    with project() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["--max-restarts", "1", str(SIDES), "worker", name]
        # Otherwise the workers of the second attempt find the addresses of the first in its store, and cannot join.
        settings = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with (folder / "said.txt").open("wb") as said:
            running = subprocess.Popen(
                command, stdout=said, stderr=said, env=os.environ | settings, start_new_session=True
            )
        try:
            wait_for(folder / "checkpoint.pt", running)
            time.sleep(0.3)  # some steps further
            killed_ns = time.monotonic_ns()
            os.kill(int((folder / "pid-0-1").read_text()), signal.SIGKILL)
            wait_for(folder / "first-1", running)
            return (int((folder / "first-1").read_text()) - killed_ns) / 1e9
        finally:
            running.terminate()
            running.wait()


def project() -> "tempfile.TemporaryDirectory[str]":
    """A folder with images in which one quadrant is bright."""
    made = tempfile.TemporaryDirectory(prefix="recovery-")
    random = np.random.default_rng(7)
    images = random.integers(0, 120, (2560, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    labels = np.arange(len(images)) % CLASSES
    half = IMAGE_SIZE // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[half * row : half * row + half, half * column : half * column + half] += 60
    np.savez(Path(made.name) / "data.npz", x_train=images, y_train=labels)
    return made


def wait_for(path: Path, running: "subprocess.Popen[bytes]") -> None:
    """For a file that the running side writes."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if running.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"torchrun did not come to {path.name}:\n{(path.parent / 'said.txt').read_text()}")
        time.sleep(0.005)


def main() -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--cold", action="store_true", help="ours without a spare, too")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    sides = {SPARE: lambda _: ours(1), TORCHRUN: lambda _: torchrun()}
    if arguments.cold:
        sides[COLD] = lambda _: ours(0)
    figures = in_turns(sides, rounds, "s")
    compared = {f"{name} / torchrun": ratios(figures[name], figures[TORCHRUN]) for name in figures if name != TORCHRUN}
    notes = [f"2 gloo workers, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"]
    return report("recovery", figures, compared, [Target(f"{SPARE} / torchrun", "at most", 1 / 3)], notes)


if __name__ == "__main__":
    sys.exit(main())

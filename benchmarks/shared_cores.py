"""How OpenMP threads wait: as libgomp does by default, briefly, or not at all; on idle cores and beside busy processes.

`tuneyard` sets GOMP_SPINCOUNT=10000 before torch is imported: this shows what that costs and what it saves.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from measuring import Target, in_turns, ratios, report

POLICIES = {"default": {}, "brief": {"GOMP_SPINCOUNT": "10000"}, "sleeping": {"OMP_WAIT_POLICY": "passive"}}
NEIGHBOURS = {"idle": 0, "one neighbour": 1, "three neighbours": 3}


def main() -> int:
    """Measure every policy on idle cores and with neighbours, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(images_per_second(arguments.steps, arguments.image_size))
        return 0

    def side(policy: str, neighbours: int) -> float:
        command = [sys.executable, __file__, "--worker", f"--steps={arguments.steps}"]
        command.append(f"--image-size={arguments.image_size}")
        with busy(neighbours):
            done = subprocess.run(
                command, env=os.environ | POLICIES[policy], check=True, capture_output=True, text=True
            )
        return float(done.stdout)

    sides = {
        f"{policy}, {cores}": (lambda _, p=policy, n=neighbours: side(p, n))
        for policy in POLICIES
        for cores, neighbours in NEIGHBOURS.items()
    }
    figures = in_turns(sides, arguments.rounds, "images/s")
    gains = {
        f"{policy} / default, {cores}": ratios(figures[f"{policy}, {cores}"], figures[f"default, {cores}"])
        for policy in ("brief", "sleeping")
        for cores in NEIGHBOURS
    }
    targets = [
        Target("brief / default, idle", "at least", 0.9),
        Target("brief / default, one neighbour", "at least", 1.2),
        Target("brief / default, three neighbours", "at least", 1.2),
    ]
    return report("shared_cores", figures, gains, targets)


def images_per_second(steps: int, image_size: int) -> float:
    """Training steps of small-cnn on every core."""
    import torch  # after the policy was set

    from tuneyard.trainers.small_cnn import SmallCnn

    model = SmallCnn(channels=1, classes=10, width=16).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images = torch.randn(64, 1, image_size, image_size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (64,))
    started = 0.0
    for step in range(steps + 3):
        if step == 3:  # the first steps choose kernels
            started = time.perf_counter()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return 64 * steps / (time.perf_counter() - started)


@contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """So many processes that want a core all the time."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(neighbours)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())

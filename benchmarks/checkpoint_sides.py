"""One side of `checkpoint.py` in a process of its own: `python checkpoint_sides.py save|load SIDE ...`.

`save` trains timm's resnet50 (25.6 million parameters, with AdamW's state 307 MB) on noise, with one thread, as a loop
that feeds a GPU has it, and saves four times: the first time of the process; a second time with nothing else going on;
a third time with the training going on until all is durable; and, once the whole state has been saved again, a fourth
time after steps that changed a tenth of the bytes. `load` fills a fresh model and a fresh optimizer with the fourth.
Both end with a line of JSON. After each save a line comes out and one is read back, so that the other end of the pipe
can count what was sent.
"""

import argparse
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from checkpoint_peers import SIDES, Side
from torch import nn

CHANGED = 0.1
FIRST, QUIET, BUSY, WHOLE, FROZEN = 1, 2, 3, 4, 5
IMAGES, PIXELS = 2, 64
WARM_UP_STEPS = 2
PACE_STEPS = 8


class Training:
    """A small loop: the same batch of noise again and again."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = timm.create_model("resnet50", num_classes=1000)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._images = torch.randn(IMAGES, 3, PIXELS, PIXELS)
        self._labels = torch.randint(1000, (IMAGES,))

    def step(self, before_change: Callable[[], None] = lambda: None) -> float:
        """Forwards, backwards, AdamW; the seconds that `before_change` took, before AdamW."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self._images), self._labels).backward()
        began = time.perf_counter()
        before_change()
        waited_s = time.perf_counter() - began
        self.optimizer.step()
        return waited_s

    def steps_per_s(self, steps: int) -> float:
        """With nothing else going on in this process."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return steps / (time.perf_counter() - began)

    def freeze(self) -> float:
        """Leave to the optimizer only tensors of a tenth of the bytes, from the head on; returns their true share."""
        self.optimizer.zero_grad()
        self.model.eval()  # normalization has statistics of its own, which would go on changing
        parameters = list(self.model.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        changing = 0
        for parameter in reversed(parameters):
            parameter.requires_grad_(changing + parameter.numel() <= CHANGED * total)
            changing += parameter.numel() if parameter.requires_grad else 0
        return changing / total

    def tensors(self) -> list[torch.Tensor]:
        """Of model and optimizer, in one order."""
        found = list(self.model.state_dict().values())
        state = self.optimizer.state_dict()["state"]
        return found + [value for number in sorted(state) for _, value in sorted(state[number].items())]

    def digest(self) -> str:
        """Of every byte of model and optimizer."""
        whole = hashlib.sha256()
        for tensor in self.tensors():
            whole.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
        return whole.hexdigest()


def peak_bytes(*, reset: bool = False) -> int:
    """The largest resident size of this process since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def timed_save(side: Side, training: Training, name: int) -> dict[str, float]:
    """Seconds until the state is copied, and until all is durable while the loop does not go on."""
    began = time.perf_counter()
    side.save(training.model, training.optimizer, name)
    side.settle()
    stall_s = time.perf_counter() - began
    side.wait()
    return {"stall_s": stall_s, "durable_s": time.perf_counter() - began}


def save_while_training(side: Side, training: Training, name: int) -> dict[str, float]:
    """The same with the loop going on, and its steps a second until all is durable (0 where it had to wait).

    `stall_s`: what the loop waits for in `save`, and before its next step changes what was to be saved.
    """
    durable_at = [0.0]

    def wait() -> None:
        side.wait()
        durable_at[0] = time.perf_counter()

    began = time.perf_counter()
    side.save(training.model, training.optimizer, name)
    returned = time.perf_counter()
    waiter = threading.Thread(target=wait)
    waiter.start()
    waited_s, steps = training.step(side.settle), 1
    while waiter.is_alive():
        training.step()
        steps += 1
    busy_s = time.perf_counter() - returned
    pace = steps / busy_s if steps > 1 else 0.0
    return {
        "stall_s": returned - began + waited_s, "durable_s": durable_at[0] - began, "steps_per_s": pace,
    }  # fmt: skip


def told(what: str) -> None:
    """Tell the parent, and wait until it has looked."""
    print(what, flush=True)
    sys.stdin.readline()


def save(side: Side) -> dict[str, Any]:
    """The four saves."""
    training = Training(seed=0)
    training.steps_per_s(WARM_UP_STEPS)
    told("begin")
    before = peak_bytes(reset=True)
    first = timed_save(side, training, FIRST)
    told("first")
    alone = training.steps_per_s(PACE_STEPS)
    quiet = timed_save(side, training, QUIET)
    told("quiet")
    training.step()
    busy = save_while_training(side, training, BUSY)
    told("busy")
    beyond = peak_bytes() - before
    timed_save(side, training, WHOLE)  # the state has moved on: after this only the change is new
    told("whole")
    changed = training.freeze()
    training.step()
    frozen = timed_save(side, training, FROZEN)
    told("frozen")
    state_bytes = sum(tensor.numel() * tensor.itemsize for tensor in training.tensors())
    return {
        "first": first, "quiet": quiet, "busy": busy, "frozen": frozen, "changed": changed,
        "steps_per_s": alone, "beyond_bytes": beyond, "state_bytes": state_bytes, "digest": training.digest(),
    }  # fmt: skip


def load(side: Side) -> dict[str, Any]:
    """Into a model with other weights and an optimizer without state."""
    training = Training(seed=1)
    began = time.perf_counter()
    side.load(training.model, training.optimizer, FROZEN)
    return {"load_s": time.perf_counter() - began, "digest": training.digest()}


def main() -> int:
    """Do one of the two; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["save", "load"])
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--endpoint-url", required=True)
    parser.add_argument("--prefix", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    side = SIDES[arguments.side](arguments.endpoint_url, arguments.prefix)
    print(json.dumps({"save": save, "load": load}[arguments.what](side)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

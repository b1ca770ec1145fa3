"""Our training loop against the same work in a hand-written PyTorch loop and in Accelerate alone.

Same net, images, sample order, optimizer, schedule, precision, memory format and threads; the epochs of all sides take
turns. At the end the weights of all sides are compared, which shows that it was the same work.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from measuring import Target, in_turns, ratios, report
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from tuneyard.trainers.build import build_trainer
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.data.batches import epoch_order
from tuneyard.trainers.data.splits import Split
from tuneyard.trainers.engine import Engine, seed_everything
from tuneyard.trainers.loop import EpochResult, Trainer
from tuneyard.trainers.models import build_model
from tuneyard.trainers.optim import build_optimizer, build_schedule
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.session import LoadedData, Session
from tuneyard.trainers.spec import TrialSpec

HERE = Path(__file__).parent
PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # as Accelerate calls them
VALIDATION_IMAGES = 16  # nobody's clock runs while we validate; more of them would only cost time
SAME_WEIGHTS = 1e-5


class Setting:
    """What all sides have in common."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        fashion = arguments.source == "fashion-mnist"
        self.experiment: Experiment = validate(
            {
                "name": "overhead",
                "data": {"source": arguments.source, "image_size": 28 if fashion else 8},
                "model": {"args": {"width": arguments.width}},
                "optimizer": {"lr": 2e-3},
                "schedule": {"warmup_epochs": 1},
                "train": {
                    "epochs": arguments.rounds + 1, "batch_size": arguments.batch_size,
                    "precision": arguments.precision,
                },
            },
            where="the benchmark",
        )  # fmt: skip
        self.session = Session(threads=arguments.threads)
        loaded = self.session.data(self.experiment.data, HERE)
        split = Split(loaded.split.train[: arguments.images], loaded.split.validation[:VALIDATION_IMAGES])
        self.data: LoadedData = replace(loaded, split=split)
        self.train = self.experiment.train
        self.steps = len(split.train) // self.train.batch_size
        self.images = self.steps * self.train.batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shape = (1, -1, 1, 1)
        mean, std = self.data.normalization
        self.mean = torch.tensor(mean, device=self.device).view(shape) * 255.0
        self.inverse_std = 1.0 / (torch.tensor(std, device=self.device).view(shape) * 255.0)

    def model(self) -> nn.Module:
        """The net with the weights that every side begins with, on the device, channels last."""
        seed_everything(self.train.seed)
        model = build_model(
            self.experiment.model, channels=self.data.channels, classes=len(self.data.classes),
            image_size=self.experiment.data.image_size, project_dir=HERE,
        )  # fmt: skip
        placed: nn.Module = model.to(self.device).to(memory_format=torch.channels_last)
        return placed

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, as the experiment has it."""
        return build_optimizer(self.experiment.optimizer, model)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Warm-up and cosine, as the experiment has them."""
        return build_schedule(
            self.experiment.schedule, optimizer, lr=self.experiment.optimizer.lr, epochs=self.train.epochs,
            steps_per_epoch=self.steps,
        )  # fmt: skip

    def pool(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The training images, uint8 [n, C, H, W], channels last, and their labels, int64 [n]."""
        chosen = self.data.split.train
        images = torch.from_numpy(self.data.pool.images[chosen]).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self.data.pool.labels[chosen])

    def order(self, epoch: int) -> np.ndarray:
        """Positions among the training images, in the order of this epoch."""
        return epoch_order(len(self.data.split.train), self.train.seed, epoch)


class Ours:
    """Our Trainer, built as `tuneyard train` builds it; its clock is its own `epoch_s`, checked from outside."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        spec = TrialSpec(
            run_id="overhead", experiment=setting.experiment, project_dir=str(HERE), store_uri="file:///dev/null",
            tracking_dir="/dev/null",
        )  # fmt: skip
        watcher = _Clock()
        engine = Engine(setting.train)
        self.trainer: Trainer = build_trainer(spec, setting.session, setting.data, engine, watcher, lambda: False)
        self._watcher = watcher
        self._epochs: Iterator[EpochResult] = self.trainer.epochs()
        self.losses: list[float] = []

    def epoch(self, number: int) -> float:
        """Images per second of one epoch's training."""
        row = next(self._epochs).metrics
        assert row["epoch_s"] >= 0.999 * self._watcher.seconds, "the trainer's clock misses part of its steps"
        self.losses.append(row["train/loss"])
        return self._setting.images / row["epoch_s"]

    @property
    def model(self) -> nn.Module:
        """The net itself."""
        return self.trainer.engine.unwrap(self.trainer.model)


class _Clock(Silent):
    """The time from an epoch's beginning to the end of its last step, as an outsider sees it."""

    seconds = 0.0
    _began = 0.0

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        self._began = time.perf_counter()

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        self.seconds = time.perf_counter() - self._began


class HandWritten:
    """The loop that one would write: tensors in memory, a batch by its indices, running sums on the device."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.model = setting.model()
        self._optimizer = setting.optimizer(self.model)
        self._schedule = setting.schedule(self._optimizer)
        self._images, self._labels = setting.pool()
        self.losses: list[float] = []

    def epoch(self, number: int) -> float:
        """Images per second of one epoch's training."""
        setting, device = self._setting, self._setting.device
        size = setting.train.batch_size
        self.model.train()
        began = time.perf_counter()
        order = torch.from_numpy(setting.order(number))
        running_loss = torch.zeros((), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for step in range(setting.steps):
            chosen = order[step * size : (step + 1) * size]
            inputs = self._images[chosen].to(device, non_blocking=True).float()
            inputs = inputs.sub_(setting.mean).mul_(setting.inverse_std)
            labels = self._labels[chosen].to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=setting.train.precision == "bf16"):
                outputs = self.model(inputs)
            # As Accelerate has it: the loss in full precision.
            outputs = outputs.float()
            loss = functional.cross_entropy(outputs, labels)
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            self._optimizer.zero_grad()
            running_loss += loss.detach() * size
            correct += (outputs.argmax(dim=1) == labels).sum()
        self.losses.append(running_loss.item() / setting.images)
        assert 0 <= correct.item() <= setting.images
        return setting.images / (time.perf_counter() - began)


class _EpochOrder(Sampler[int]):
    """Our order of an epoch, as a sampler."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.epoch = 0

    def __len__(self) -> int:
        return self._setting.images

    def __iter__(self) -> Iterator[int]:
        return iter(self._setting.order(self.epoch)[: self._setting.images].tolist())


class _WholeBatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Fetches a batch with one indexing, where the DataLoader's default makes a list of samples and stacks them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._images[index], self._labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.tensor(indices)
        return self._images[chosen], self._labels[chosen]


class AccelerateAlone:
    """The loop of Accelerate's documentation: prepare model, optimizer, DataLoader and scheduler; backward through it.

    `whole_batches` spares it the DataLoader's stacking of samples, which is no work of Accelerate's.
    """

    def __init__(self, setting: Setting, *, whole_batches: bool) -> None:
        self._setting = setting
        self._accelerator = Accelerator(mixed_precision=PRECISION[setting.train.precision])
        model = setting.model()
        optimizer = setting.optimizer(model)
        dataset = _WholeBatches(*setting.pool()) if whole_batches else TensorDataset(*setting.pool())
        self._order = _EpochOrder(setting)
        loader = DataLoader(
            dataset, batch_size=setting.train.batch_size, sampler=self._order, drop_last=True,
            collate_fn=_as_is if whole_batches else None,
        )  # fmt: skip
        prepared = self._accelerator.prepare(model, optimizer, loader, setting.schedule(optimizer))
        self.model, self._optimizer, self._loader, self._schedule = prepared
        self.losses: list[float] = []

    def epoch(self, number: int) -> float:
        """Images per second of one epoch's training."""
        setting = self._setting
        self._order.epoch = number
        self.model.train()
        began = time.perf_counter()
        running_loss = torch.zeros((), device=setting.device)
        correct = torch.zeros((), dtype=torch.int64, device=setting.device)
        for images, labels in self._loader:
            self._optimizer.zero_grad()
            inputs = images.to(memory_format=torch.channels_last, dtype=torch.float32)
            inputs = inputs.sub_(setting.mean).mul_(setting.inverse_std)
            outputs = self.model(inputs)
            loss = functional.cross_entropy(outputs, labels)
            self._accelerator.backward(loss)
            self._optimizer.step()
            self._schedule.step()
            running_loss += loss.detach() * len(labels)
            correct += (outputs.detach().argmax(dim=1) == labels).sum()
        self.losses.append(running_loss.item() / setting.images)
        assert 0 <= correct.item() <= setting.images
        return setting.images / (time.perf_counter() - began)


def _as_is(batch: Any) -> Any:
    return batch


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of two weights, as a share of the largest weight of their tensor."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    setting = Setting(arguments)
    ours = Ours(setting)  # first: it resets Accelerate's process-wide state, which the others then share
    written = HandWritten(setting)
    documented = AccelerateAlone(setting, whole_batches=False)
    quicker = AccelerateAlone(setting, whole_batches=True)
    sides: dict[str, Callable[[int], float]] = {
        "tuneyard": ours.epoch, "hand-written": written.epoch, "accelerate": documented.epoch,
        "accelerate, whole batches": quicker.epoch,
    }  # fmt: skip
    for epoch in sides.values():
        epoch(0)  # unmeasured: allocations, oneDNN's or cuDNN's choices
    figures = in_turns({name: _later(epoch) for name, epoch in sides.items()}, arguments.rounds, "images/s")
    against = {f"tuneyard / {name}": ratios(figures["tuneyard"], figures[name]) for name in list(sides)[1:]}
    batches = f"{setting.images:,} images a round, batches of {setting.train.batch_size}, width {arguments.width}"
    notes = [f"{batches}, {arguments.precision}, {torch.get_num_threads()} threads, {setting.device}"]
    same = True
    for name, side in (("hand-written", written), ("accelerate", documented), ("accelerate, whole batches", quicker)):
        difference = largest_difference(ours.model, side.model)
        same = same and difference <= SAME_WEIGHTS
        notes.append(
            f"tuneyard and {name} after {len(ours.losses)} epochs: largest relative difference of weights "
            f"{difference:.1e}; last training losses {ours.losses[-1]:.6f} and {side.losses[-1]:.6f}"
        )
    targets = [Target("tuneyard / hand-written", "at least", 0.97), Target("tuneyard / accelerate", "at least", 1.0)]
    status = report("trainer_overhead", figures, against, targets, notes)
    if not same:
        print("The sides did not do the same work: their weights differ.", file=sys.stderr)
    return status if same else 1


def _later(epoch: Callable[[int], float]) -> Callable[[int], float]:
    """Round 0 is epoch 1: epoch 0 was the warm-up."""
    return lambda number: epoch(number + 1)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="fashion-mnist", choices=["fashion-mnist", "digits"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=8192, help="training images in a round, at most")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=16, help="of reference/small-cnn")
    parser.add_argument("--threads", type=int, help="torch's threads; all cores if unset")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2,048 images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.images = 3, 2048
    return arguments


if __name__ == "__main__":
    sys.exit(main())

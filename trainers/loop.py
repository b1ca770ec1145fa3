"""The training loop: from batch to optimizer step to the result of an epoch, on one screen."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from tuneyard.trainers.averaging import AveragedWeights
from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.data.batches import Batch, EvalBatches, TrainBatches
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import DivergedError, InterruptedRunError
from tuneyard.trainers.predictions import Predictions, join_shares
from tuneyard.trainers.tasks import Task

STEPS_BETWEEN_VOTES = 8
STEPS_BETWEEN_LOOKS = 100  # at the losses, for one that is not finite: looking waits for the device


class Watcher(Protocol):
    """Who is told how an epoch goes: a progress bar. Must be quick, and must not touch `loss` at every step."""

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None: ...

    def step_done(self, images: int, loss: torch.Tensor) -> None: ...

    def epoch_ended(self, metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A pass over a set: its metrics, the sums behind them, and this worker's per-sample results.

    `kept`: every worker's probabilities, where they were asked for.
    """

    metrics: dict[str, float]
    sums: dict[str, torch.Tensor]
    indices: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray
    kept: Predictions | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch came to; `metrics` is the row that the run record keeps."""

    metrics: dict[str, float]
    validation: Evaluation
    first_images: np.ndarray | None = field(default=None, repr=False)


class Trainer:
    """Trains a prepared model epoch by epoch, and can stop and go on after any step.

    `state()` after a stop, given to `restore()` on a trainer built alike, continues to the same weights: bit for bit
    on a CPU.
    """

    def __init__(
        self, *, config: TrainConfig, engine: Engine, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer,
        schedule: LRScheduler, train: TrainBatches, validation: EvalBatches,
        normalization: tuple[tuple[float, ...], tuple[float, ...]], should_stop: Callable[[], bool], watcher: Watcher,
        keep_probabilities: bool = False,
    ) -> None:  # fmt: skip
        self.keep_probabilities = keep_probabilities
        self.before_change: Callable[[], None] = lambda: None
        """Called before weights or the optimizer's state change: a checkpoint may still be copying them."""
        self.config, self.engine, self.task, self.watcher = config, engine, task, watcher
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.train, self.validation, self.should_stop = train, validation, should_stop
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(normalization[0], device=engine.device).view(shape) * 255.0
        self._inverse_std = 1.0 / (torch.tensor(normalization[1], device=engine.device).view(shape) * 255.0)
        span_steps = train.steps_per_epoch * (config.ema_epochs or 0.0)
        self._average = AveragedWeights(engine.unwrap(model), max(span_steps, 1.0)) if span_steps else None
        self.epoch = self.batch = self.step = 0
        self._epoch_s = 0.0
        self._sums = task.empty(engine.device)
        self._losses = torch.zeros(train.steps_per_epoch, device=engine.device)

    def epochs(self) -> Iterator[EpochResult]:
        """Train what is left, and yield after each epoch; InterruptedRunError once `should_stop` says so."""
        while self.epoch < self.config.epochs:
            first_images = self._train_epoch()
            row = self.task.summarize_training(self.engine.add_up(self._sums))
            with self._judged_weights():
                validation = self.evaluate(self.validation, keep=self.keep_probabilities)
            row |= validation.metrics
            self._refuse_nan("validation", validation.metrics)
            images = self.train.steps_per_epoch * self.train.global_batch_size
            row |= {"lr": self._lr(), "images_per_s": images / max(self._epoch_s, 1e-9), "epoch_s": self._epoch_s}
            self.epoch, self.batch, self._epoch_s = self.epoch + 1, 0, 0.0
            self._sums = self.task.empty(self.engine.device)
            row = {"epoch": self.epoch, "step": self.step} | row
            self.watcher.epoch_ended(row)
            yield EpochResult(row, validation, first_images)

    def _train_epoch(self) -> np.ndarray | None:
        self.model.train()
        self.watcher.epoch_begins(self.epoch, self.train.steps_per_epoch, self.batch)
        first_images = None
        started = time.perf_counter()
        for batch in self.train.epoch(self.epoch, start=self.batch):
            if first_images is None and self.batch == 0:
                first_images = batch.images[:256].numpy()
            loss = self._train_step(batch)
            self.batch, self.step = self.batch + 1, self.step + 1
            self.watcher.step_done(len(batch.labels) * self.engine.world_size, loss)
            if self.batch % STEPS_BETWEEN_LOOKS == 0:
                self._refuse_divergence()
            if self._asked_to_stop():
                self._epoch_s += time.perf_counter() - started
                self._refuse_divergence()
                raise InterruptedRunError(f"stopped in epoch {self.epoch + 1}, after step {self.step}")
        self._refuse_divergence()
        self._epoch_s += time.perf_counter() - started
        return first_images

    def _asked_to_stop(self) -> bool:
        """Workers must leave after the same step; several of them agree every few steps, since asking costs a wait."""
        if self.engine.world_size > 1 and self.step % STEPS_BETWEEN_VOTES:
            return False
        return self.engine.any_worker(self.should_stop())

    def _train_step(self, batch: Batch) -> torch.Tensor:
        """One optimizer step on this worker's share of a global batch; returns the share's mean loss, on the device."""
        images = self.engine.inputs(batch.images, self._mean, self._inverse_std)
        labels = batch.labels.to(self.engine.device, non_blocking=True)
        shares = list(zip(images.chunk(self.config.accumulate), labels.chunk(self.config.accumulate), strict=True))
        total = torch.zeros((), device=self.engine.device)
        for place, (inputs, targets) in enumerate(shares):
            last = place == len(shares) - 1
            with nullcontext() if last else self.engine.no_sync(self.model):
                outputs = self.model(inputs)
                loss = self.task.loss(outputs, targets)
                # DDP averages over workers, whose shares of the last batch may differ in size.
                weight = len(targets) * self.engine.world_size / self.train.global_batch_size
                self.engine.backward(loss * weight if weight != 1.0 else loss)
            self.task.add_training(self._sums, outputs, targets, loss)
            total += loss.detach() * (len(targets) / len(labels))
        self.before_change()
        if self.config.clip_norm is not None:
            self.engine.clip(self.model, self.optimizer, self.config.clip_norm)
        self.engine.step(self.optimizer)
        self.schedule.step()
        if self._average is not None:
            self._average.update()
        # Kept on the device, so that no step waits to look at its own loss.
        self._losses[self.batch] = total
        return total

    def _judged_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that it is judged by: the averaged ones, where there are such."""
        if self._average is None:
            return nullcontext()
        self.before_change()
        return self._average.in_place()

    @torch.no_grad()  # and not inference_mode: zero3 keeps tensors that are made in here for the training
    def evaluate(self, batches: EvalBatches, *, keep: bool = False) -> Evaluation:
        """Metrics of a whole set, over all workers; `keep`: with every sample's probabilities."""
        self.model.eval()
        model, missing = self.engine.for_evaluation(self.model), self.engine.missing_passes(len(batches))
        sums = self.task.empty(self.engine.device)
        parts: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]] = []
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        for batch in batches:
            outputs = model(self.engine.inputs(batch.images, self._mean, self._inverse_std))
            labels = batch.labels.to(self.engine.device, non_blocking=True)
            losses = self.task.losses(outputs, labels)
            self.task.add_validation(sums, outputs, labels, losses)
            parts.append((batch.indices.numpy(), self.task.predict(outputs), losses))
            if keep:
                kept.append((self.task.probabilities(outputs), batch.labels))
        for _ in range(missing):
            model(self.engine.inputs(batches.blank(), self._mean, self._inverse_std))
        sums = self.engine.add_up(sums)
        indices = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
        return Evaluation(
            metrics=self.task.summarize_validation(sums),
            sums=sums,
            indices=indices,
            predictions=torch.cat([part[1] for part in parts]).cpu().numpy() if parts else np.zeros(0, np.int64),
            losses=torch.cat([part[2] for part in parts]).float().cpu().numpy() if parts else np.zeros(0, np.float32),
            kept=self._of_all_workers(indices, kept) if keep else None,
        )

    def _of_all_workers(self, indices: np.ndarray, kept: list[tuple[torch.Tensor, torch.Tensor]]) -> Predictions:
        """These probabilities and labels, batch by batch, and those of the other workers. All workers must call it."""
        # A worker may have no sample at all.
        probabilities = torch.cat([part[0] for part in kept]).cpu() if kept else torch.zeros(0, self.task.outputs)
        labels = torch.cat([part[1] for part in kept]) if kept else torch.zeros(0, dtype=torch.int64)
        own = Predictions(indices, probabilities.numpy(), labels.numpy(), step=self.step)
        return join_shares(self.engine.gather(own))

    def state(self) -> dict[str, Any]:
        """All that a trainer built alike needs to go on: a tree of tensors and plain values. All workers must ask."""
        scaler = self.engine.scaler
        return {
            "model": self.engine.model_state(self.model),
            "optimizer": self.engine.optimizer_state(self.optimizer),
            "progress": {
                "epoch": self.epoch, "batch": self.batch, "step": self.step, "epoch_s": self._epoch_s,
                "sums": self.engine.add_up(self._sums),
                "schedule": self.schedule.state_dict(), "scaler": scaler.state_dict() if scaler else None,
            },
            "random": self.engine.random_states(),
        } | ({"average": self._average.state()} if self._average else {})  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; raises KeyError or RuntimeError where it is of another model."""
        self.engine.load_model(self.model, state["model"])
        self.engine.load_optimizer(self.optimizer, state["optimizer"])
        progress = state["progress"]
        if self._average is not None:
            self._average.load(state["average"], progress["step"])
        self.schedule.load_state_dict(progress["schedule"])
        if self.engine.scaler and progress["scaler"]:
            self.engine.scaler.load_state_dict(progress["scaler"])
        self.epoch, self.batch, self.step = progress["epoch"], progress["batch"], progress["step"]
        self._epoch_s = progress["epoch_s"]
        if self.engine.is_main:
            # Saved as the sum over all workers; the others begin at zero.
            self._sums = {name: value.to(self.engine.device).clone() for name, value in progress["sums"].items()}
        self.engine.restore_random(state["random"])

    @property
    def judged_part(self) -> str:
        """The part of a saved state with the weights that the run was judged by."""
        return "model" if self._average is None else "average"

    def load_judged(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the model saved weights, of the `judged_part`, to evaluate with. All workers must call it."""
        self.before_change()
        self.engine.load_model(self.model, weights)

    def steady(self) -> set[int]:
        """Addresses of the tensors of `state()` that no forward pass changes, only what `before_change` precedes."""
        state = self.optimizer.state.values()
        tensors = [value for entry in state for value in entry.values() if isinstance(value, torch.Tensor)]
        tensors += self.model.parameters()
        tensors += self._average.state().values() if self._average else []
        return {tensor.data_ptr() for tensor in tensors} - {0}

    def _lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def _refuse_divergence(self) -> None:
        bad = torch.nonzero(~torch.isfinite(self._losses[: self.batch]))
        if self.engine.any_worker(len(bad) > 0):
            where = f"epoch {self.epoch + 1}"
            if len(bad) > 0:
                where = f"step {self.epoch * self.train.steps_per_epoch + int(bad[0]) + 1} ({where})"
            raise DivergedError(
                f"The training loss became NaN or infinite at {where}, with lr {self._lr():.3g} and precision "
                f"{self.config.precision}. Lower optimizer.lr, set train.clip_norm, or warm up longer; "
                "the checkpoints from before are kept."
            )

    def _refuse_nan(self, which: str, metrics: Mapping[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            raise DivergedError(
                f"{', '.join(bad)} became NaN or infinite in the {which} of epoch {self.epoch + 1} (step {self.step}). "
                "Lower optimizer.lr, set train.clip_norm, or warm up longer; the checkpoints from before are kept."
            )

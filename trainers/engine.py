"""Accelerate behind a small face: devices, precision, workers. The only file that imports it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import nn

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.experiment import TrainConfig

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Engine:
    """One worker's view of the devices: this process's device, its rank, and what all workers do together.

    Workers are found by torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...); without them there is one.
    Accelerate keeps process-wide state, so a process has one Engine at a time; making another forgets the one before.
    """

    def __init__(self, train: TrainConfig, *, cpu: bool = False) -> None:
        if train.precision == "fp16" and (cpu or not torch.cuda.is_available()):
            raise ConfigError("train.precision: fp16 needs a GPU, and there is none here; use bf16 or fp32.")
        AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator = Accelerator(
            mixed_precision=PRECISION[train.precision],
            cpu=cpu or not torch.cuda.is_available(),
            # `place` does that. Accelerate would first import DTensor (a second) to see whether the model has any.
            device_placement=False,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=10))],
        )
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self._memory_format = torch.channels_last if train.channels_last else torch.contiguous_format

    @property
    def is_main(self) -> bool:
        """Is this the worker that saves and reports?"""
        return self.rank == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model on this device, in its memory format, wrapped for precision and workers; the optimizer for `step`.

        The optimizer must have been built on this model's parameters, which keep their identity.
        """
        # Accelerate must know of the optimizer, to unscale fp16 gradients before they are clipped. But it is stepped
        # without the wrapper, which in every step searches the import path twice and inspects a signature.
        prepared, _ = self._accelerator.prepare(self.place(model), optimizer)
        return prepared, optimizer

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this device, in the memory format of the experiment."""
        # torch's types have no `to(memory_format=...)` for modules.
        placed: nn.Module = model.to(self.device).to(memory_format=self._memory_format)
        return placed

    def inputs(self, images: torch.Tensor, mean: torch.Tensor, inverse_std: torch.Tensor) -> torch.Tensor:
        """uint8 images [B, H, W, C] to normalised floats [B, C, H, W] on the device, in the model's memory format."""
        # Sent as bytes and widened there: a quarter of the traffic. The permuted view is channels_last already.
        pixels = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return pixels.sub_(mean).mul_(inverse_std).contiguous(memory_format=self._memory_format)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the loss, scaled for fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step, left out by fp16 where the scaled gradients overflowed; no gradients are left behind."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Inside, gradients stay with this worker: for every micro-batch but the last."""
        context: AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return context

    def clip(self, model: nn.Module, max_norm: float) -> None:
        """Clip the global norm of the gradients (unscaled first in fp16)."""
        self._accelerator.unscale_gradients()
        # Not Accelerate's clip_grad_norm_, which imports DTensor (a second) to see whether a gradient is one.
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The model itself, without what `prepare` put around it."""
        # Not Accelerate's own unwrap_model, which imports DeepSpeed (seconds) wherever it is installed.
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def add_up(self, sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each tensor summed over all workers, on the CPU."""
        if self.world_size > 1:
            sums = {name: self._accelerator.reduce(value.clone(), reduction="sum") for name, value in sums.items()}
        return {name: value.cpu() for name, value in sums.items()}

    def any_worker(self, flag: bool) -> bool:
        """Does any worker say yes? All workers must ask at the same step."""
        if self.world_size == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(int(flag), device=self.device), reduction="sum") > 0)

    def broadcast(self, value: Any) -> Any:
        """The main worker's value, a small plain object, on every worker."""
        if self.world_size == 1:
            return value
        return broadcast_object_list([value])[0]

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The fp16 loss scaler, or None."""
        scaler: torch.amp.GradScaler | None = self._accelerator.scaler
        return scaler

    def random_states(self) -> list[dict[str, Any]]:
        """Every worker's random states, by rank: torch's, and those of its GPU and of NumPy's global generator."""
        own = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(legacy=False)}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.world_size == 1:
            return [own]
        states: list[dict[str, Any]] = gather_object([own])
        return states

    def restore_random(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set this worker's random states; a worker that had none keeps its seed."""
        if self.rank >= len(states):
            return
        own = states[self.rank]
        torch.set_rng_state(own["torch"])
        np.random.set_state(own["numpy"])
        if self.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def close(self) -> None:
        """Let go of the model, the optimizer and Accelerate's process-wide state."""
        self._accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed torch (all devices) and NumPy's global generator, differently for each worker."""
    torch.manual_seed(seed * 1009 + rank)
    np.random.seed((seed * 1009 + rank) % 2**32)

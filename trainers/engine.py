"""Accelerate behind a small face: devices, precision, workers. The only file that imports it."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
    convert_to_fp32,
    gather_object,
)
from torch import nn

from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.parallel.zero import LossScale, Zero, import_deepspeed
from tuneyard.trainers.parallel.zero_config import zero_config

TIMEOUT = timedelta(minutes=10)

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a model computes in; its weights are fp32 always, so that training is the same under every strategy."""

log = logging.getLogger(__name__)


class Engine:
    """One worker's view of the devices: this process's device, its rank, and what all workers do together.

    Workers are those of this process's group (`process_group.join`), which may outlive many engines, or are found by
    torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...); without either there is one. Accelerate keeps
    process-wide state, so a process has one Engine at a time; making another forgets the one before.

    project_dir: where `train.deepspeed.config` starts from; raises ConfigError where that file does not fit.
    """

    def __init__(self, train: TrainConfig, *, cpu: bool = False, project_dir: Path | None = None) -> None:
        cpu = cpu or not torch.cuda.is_available()
        _forget()
        self._alone = train.strategy != "ddp" and _join_for_deepspeed(cpu)
        self._zero: Zero | None = None
        self._accelerator = _accelerator(train, project_dir or Path(), cpu=cpu)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.scaler = _scaler(train, self.device)
        self._autocast = AUTOCAST[train.precision]
        # DeepSpeed lays all parameters out flat, one after the other, and refuses those that are not plain.
        channels_last = train.channels_last and train.strategy == "ddp"
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def is_main(self) -> bool:
        """Is this the worker that saves and reports?"""
        return self.rank == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model on this device, in its memory format, wrapped for precision and workers; the optimizer for `step`.

        The optimizer must have been built on this model's parameters, which keep their identity.
        """
        placed = self.place(model)
        if self._autocast is not None:
            _compute_in(placed, self._autocast, self.device.type)
        if self._accelerator.distributed_type != DistributedType.DEEPSPEED:
            # Without the optimizer: Accelerate's wrapper searches the import path twice in every step.
            return self._accelerator.prepare(placed), optimizer
        groups = [list(group["params"]) for group in optimizer.param_groups]
        prepared, _ = self._accelerator.prepare(placed, optimizer)
        scale = self.scaler if isinstance(self.scaler, LossScale) else None
        self._zero = Zero(prepared, optimizer, groups, scale)
        return prepared, optimizer

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this device, in the memory format of the experiment."""
        # torch's types have no `to(memory_format=...)` for modules.
        placed: nn.Module = model.to(self.device).to(memory_format=self._memory_format)
        return placed

    def inputs(self, images: torch.Tensor, mean: torch.Tensor, inverse_std: torch.Tensor) -> torch.Tensor:
        """uint8 images [B, H, W, C] to normalised floats [B, C, H, W] on the device, in the model's memory format."""
        # Sent as bytes and widened there: a quarter of the traffic. The permuted view is channels_last already.
        sent = images.to(self.device, non_blocking=True)
        count, height, width, channels = sent.shape
        if channels > 1 and sent.device.type == "cpu":
            # Broadcasting over so few channels is not vectorised; over whole rows of pixels it is, twice as fast.
            mean, inverse_std = (values.reshape(channels).repeat(width) for values in (mean, inverse_std))
            rows = sent.reshape(count, height, width * channels).float().sub_(mean).mul_(inverse_std)
            pixels = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
        else:
            pixels = sent.permute(0, 3, 1, 2).float().sub_(mean).mul_(inverse_std)
        return pixels.contiguous(memory_format=self._memory_format)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the loss, scaled for fp16."""
        if self._zero is not None:
            self._zero.backward(loss)
        else:
            (self.scaler.scale(loss) if isinstance(self.scaler, torch.amp.GradScaler) else loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step, left out by fp16 where the scaled gradients overflowed; no gradients are left behind."""
        if self.scaler is not None:
            # Otherwise a schedule whose first step follows a step that was left out complains of their order.
            optimizer._opt_called = True  # type: ignore[attr-defined]
        if self._zero is not None:
            self._zero.step()  # which also lets go of the gradients, but for those it keeps in main memory
            return
        if isinstance(self.scaler, torch.amp.GradScaler):
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Inside, gradients are only added up: for every micro-batch but the last."""
        if self._zero is not None:
            return self._zero.no_sync()
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()

    def clip(self, model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """Clip the global norm of the gradients (unscaled first in fp16); DeepSpeed does that in its step."""
        if self._zero is not None:
            return
        if isinstance(self.scaler, torch.amp.GradScaler):
            self.scaler.unscale_(optimizer)
        # Not Accelerate's clip_grad_norm_, which imports DTensor (a second) to see whether a gradient is one.
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The model itself, without what `prepare` put around it."""
        # Not Accelerate's own unwrap_model, which imports DeepSpeed (seconds) wherever it is installed.
        wrapped = self._zero is not None or isinstance(model, nn.parallel.DistributedDataParallel)
        return model.module if wrapped else model  # type: ignore[return-value]

    def for_evaluation(self, model: nn.Module) -> nn.Module:
        """What to call in an evaluation, with the main worker's buffers (batch norm's statistics) on every worker.

        All workers must ask; then they may call it as often as each needs, but for `missing_passes`.
        """
        module = self.unwrap(model)
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)
        # DistributedDataParallel would send the buffers in every pass, and wait for a worker with fewer batches.
        return module if self._zero is None else model

    def missing_passes(self, own: int) -> int:
        """How many more forward passes than its `own` this worker must make in an evaluation. All workers must ask.

        Under zero3 each pass fetches the weights from all workers; otherwise none is missing.
        """
        return max(self.gather(own)) - own if self._zero is not None and self._zero.sharded_weights else 0

    def model_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The whole model's state, whatever the strategy; of use on the main worker only. All workers must ask."""
        return self._zero.model_state() if self._zero is not None else self.unwrap(model).state_dict()

    def load_model(self, model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Set the model from a whole state; raises RuntimeError where that is another model's. All workers must."""
        if self._zero is not None:
            self._zero.load_model(state)
        else:
            self.unwrap(model).load_state_dict(state)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole optimizer's state, whatever the strategy; of use on the main worker only. All workers must ask."""
        return self._zero.optimizer_state() if self._zero is not None else optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Set the optimizer from a whole state; raises ValueError where that is another's. All workers must."""
        if self._zero is not None:
            self._zero.load_optimizer(state)
        else:
            optimizer.load_state_dict(dict(state))

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

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, a small plain object, by rank, on every worker."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = gather_object([value])
        return values

    def random_states(self) -> list[dict[str, Any]]:
        """Every worker's random states, by rank: torch's, and those of its GPU and of NumPy's global generator."""
        own = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(legacy=False)}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        return self.gather(own)

    def restore_random(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set this worker's random states; a worker that had none keeps its seed."""
        if self.rank >= len(states):
            return
        own = states[self.rank]
        # A copy: torch adds the offset of a view into its storage twice, and reads beyond it.
        torch.set_rng_state(own["torch"].clone())
        np.random.set_state(own["numpy"])
        if self.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def close(self) -> None:
        """Let go of the model, the optimizer and the process-wide state. A group that was joined before is kept."""
        if self._zero is not None:
            self._zero.close()
            self._zero = None
        self._accelerator.free_memory()
        _forget()
        if self._alone:
            process_group.leave()
            self._alone = False


def _forget() -> None:
    """Let go of Accelerate's process-wide state, and of its wish for DeepSpeed."""
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    AcceleratorState._reset_state(reset_partial_state=True)


def _join_for_deepspeed(cpu: bool) -> bool:
    """DeepSpeed cannot do without a process group: is this worker alone in one that was made for it?"""
    if process_group.joined():
        return False
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo" if cpu else "nccl", timeout=TIMEOUT)
        return False
    process_group.join_alone("gloo" if cpu else "nccl")
    return True


def _accelerator(train: TrainConfig, project_dir: Path, *, cpu: bool) -> Accelerator:
    # Otherwise Accelerate would give each of several workers on a CPU a number of threads of its own choice.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    # Of a group that was joined already: two workers on one GPU talk by gloo.
    backend = dist.get_backend() if process_group.joined() else None
    handlers = [InitProcessGroupKwargs(timeout=TIMEOUT, backend=backend)]
    # `place` does what device_placement would; Accelerate would first import DTensor (a second) to see whether the
    # model has any. The precision is `_compute_in`'s: Accelerate refuses fp16 on a CPU.
    if train.strategy == "ddp":
        return Accelerator(mixed_precision="no", cpu=cpu, device_placement=False, kwargs_handlers=handlers)
    config = zero_config(train, dist.get_world_size(), project_dir, cpu=cpu)
    import_deepspeed(cpu=cpu)
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)
    # It tells the package transformers of the configuration, and fails where that is not installed.
    plugin.set_deepspeed_weakref = lambda: None
    # With cpu=True Accelerate would overlook DeepSpeed.
    return Accelerator(
        mixed_precision="no", device_placement=False, kwargs_handlers=handlers, deepspeed_plugin=plugin,
        gradient_accumulation_steps=train.accumulate,
    )  # fmt: skip


def _scaler(train: TrainConfig, device: torch.device) -> torch.amp.GradScaler | LossScale | None:
    if train.precision != "fp16":
        return None
    if device.type == "cpu":
        log.warning("train.precision: fp16 is slow on a CPU, and meant for tests there; bf16 and fp32 are faster.")
    return torch.amp.GradScaler(device.type) if train.strategy == "ddp" else LossScale()


def _compute_in(model: nn.Module, dtype: torch.dtype, device_type: str) -> None:
    """Make the model compute under autocast, with fp32 outputs."""
    forward = model.forward

    def under_autocast(*inputs: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype):
            outputs = forward(*inputs)
        return convert_to_fp32(outputs)

    model.forward = under_autocast


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed torch (all devices) and NumPy's global generator, differently for each worker."""
    torch.manual_seed(seed * 1009 + rank)
    np.random.seed((seed * 1009 + rank) % 2**32)

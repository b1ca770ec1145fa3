"""Ends a run whose worker holds more memory than the experiment allows, before the system ends the whole machine."""

from collections.abc import Mapping

import torch

from tuneyard.trainers.errors import OutOfMemoryError
from tuneyard.trainers.loop import Watcher
from tuneyard.trainers.memory import held_bytes

STEPS_BETWEEN_LOOKS = 50


class MemoryLimit:
    """A watcher in front of another: looks every few steps and after every epoch, which costs microseconds.

    Raises OutOfMemoryError once this process holds more than `limit_gb` (in 1e9 bytes).
    """

    def __init__(self, watcher: Watcher, limit_gb: float) -> None:
        self._watcher, self._limit_gb = watcher, limit_gb
        self._steps = 0

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """Looks here too: the data, just loaded, may be too much already."""
        self._look()
        self._watcher.epoch_begins(epoch, steps, start)

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        """Looks at every fiftieth step."""
        self._steps += 1
        if self._steps % STEPS_BETWEEN_LOOKS == 0:
            self._look()
        self._watcher.step_done(images, loss)

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """Looks after the validation, which may need the most."""
        self._look()
        self._watcher.epoch_ended(metrics)

    def _look(self) -> None:
        held_gb = held_bytes() / 1e9
        if held_gb > self._limit_gb:
            raise OutOfMemoryError(
                f"A worker holds {held_gb:.2f} GB of memory; resources.memory_per_worker_gb allows {self._limit_gb:g}. "
                "Lower train.batch_size or data.image_size, raise train.accumulate, or raise the limit."
            )

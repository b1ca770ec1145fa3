"""Batches of images: which samples, in which order, made here or by processes of their own, always the same.

Order and augmentation depend on (seed, epoch, sample) alone. So any number of workers or loader processes, and any
place to resume at, gives the same batches, bit for bit.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from tuneyard.trainers.data.ahead import made_ahead
from tuneyard.trainers.data.augment import AnyAugmenter
from tuneyard.trainers.data.dataset import Samples
from tuneyard.trainers.data.loader import LoaderProcesses, gather, make_images
from tuneyard.trainers.data.sample_order import permutation
from tuneyard.trainers.errors import ConfigError, DataError

Array = np.ndarray[Any, np.dtype[Any]]

# Pixel values that a normalization is measured on at most: 0.4 s, and far more than two digits of it need.
_MAX_VALUES = 64_000_000
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """images: uint8 [b, H, W, C]; labels: int64 [b]; indices: int64 [b], positions in the pool."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


def epoch_order(n: int, seed: int, epoch: int) -> Array:
    """int64 [n]: the order in which an epoch goes through n samples; a function of these three alone."""
    return permutation(n, seed, epoch)


def _checked(samples: Samples, indices: Array, rank: int, world_size: int) -> Array:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    if len(indices) == 0:
        raise DataError("There are no samples to make batches of.")
    if indices.min() < 0 or indices.max() >= len(samples):
        raise IndexError(f"positions {indices.min()} to {indices.max()} of {len(samples)} samples")
    return np.ascontiguousarray(indices, dtype=np.int64)


def _batch(samples: Samples, images: torch.Tensor, indices: Array) -> Batch:
    return Batch(images, torch.from_numpy(samples.labels[indices]), torch.from_numpy(indices))


class TrainBatches:
    """One worker's share of the shuffled, augmented batches of each epoch.

    batch_size: the global batch; rank r gets its samples r, r + world_size, … so shares differ by one sample where
    world_size does not divide it. An incomplete last batch is dropped (other samples miss out in each epoch), unless
    it is the only one. processes: 0 makes batches in this process, and `ahead` in a thread beside the training, for
    training that leaves the cores to it. Go through one epoch at a time, and `close` at the end.
    """

    def __init__(
        self,
        samples: Samples,
        indices: Array,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        augmenter: AnyAugmenter | None = None,
        processes: int = 0,
        ahead: bool = False,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < world_size:
            raise ConfigError(
                f"train.batch_size is {batch_size}, the global batch, which {world_size} workers cannot share. "
                f"Use at least {world_size}, or fewer workers."
            )
        self._samples = samples
        self._indices = _checked(samples, indices, rank, world_size)
        self._size = min(batch_size, len(indices))
        if self._size < world_size:
            raise DataError(f"{len(indices)} training samples cannot be shared by {world_size} workers. Use fewer.")
        self._rank, self._world_size = rank, world_size
        self._seed = seed
        self._augmenter = augmenter
        self._ahead = ahead
        self._pin_memory = pin_memory
        self._running: Generator[Batch] | None = None
        self._processes: LoaderProcesses | None = None
        if processes > 0:
            self._processes = LoaderProcesses(samples.images, augmenter, processes, pin_memory)

    @property
    def global_batch_size(self) -> int:
        """Samples in each batch, over all ranks."""
        return self._size

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return len(self._indices) // self._size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of the epoch, from batch number `start` on."""
        if self._running is not None:
            self._running.close()
        self._running = self._make_epoch(epoch, start)
        return self._running

    def _make_epoch(self, epoch: int, start: int) -> Generator[Batch]:
        order = self._indices[epoch_order(len(self._indices), self._seed, epoch)]
        shares = [
            order[step * self._size : (step + 1) * self._size][self._rank :: self._world_size]
            for step in range(start, self.steps_per_epoch)
        ]
        if self._processes is None:
            yield from (
                made_ahead(partial(self._make, epoch), shares)
                if self._ahead
                else (self._make(epoch, share) for share in shares)
            )
            return
        for place, share in enumerate(shares):
            if self._processes.ready:
                yield from self._from_processes(self._processes, epoch, shares[place:])
                return
            yield self._make(epoch, share)

    def _make(self, epoch: int, share: Array) -> Batch:
        images = make_images(self._samples.images, self._augmenter, epoch, share, self._pin_memory)
        return _batch(self._samples, images, share)

    def _from_processes(self, processes: LoaderProcesses, epoch: int, shares: list[Array]) -> Iterator[Batch]:
        made = processes.run((epoch, share) for share in shares)
        for share, images in zip(shares, made, strict=True):
            yield _batch(self._samples, images, share)

    def wait_for_processes(self, timeout_s: float) -> bool:
        """Wait until the loader processes, if there are any, make the batches; only measurements need to."""
        return self._processes is None or self._processes.wait(timeout_s)

    def close(self) -> None:
        """Stop the loader processes, if there are any. No epoch can be had after it."""
        if self._running is not None:
            self._running.close()
            self._running = None
        if self._processes is not None:
            self._processes.close()


class EvalBatches:
    """One worker's share of the samples, in order and not augmented; the ranks' shares are disjoint and cover all.

    batch_size: over all ranks. The last batch may be smaller, and a rank has none where there are fewer samples left
    than ranks: do not gather inside the loop.
    """

    def __init__(self, samples: Samples, indices: Array, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._samples = samples
        self._indices = _checked(samples, indices, rank, world_size)[rank::world_size]
        self._size = max(1, batch_size // world_size)

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def blank(self) -> torch.Tensor:
        """One black image [1, H, W, C], for a forward pass that is made for its own sake."""
        return torch.zeros((1, *self._samples.images.shape[1:]), dtype=torch.uint8)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._indices), self._size):
            share = self._indices[start : start + self._size]
            yield _batch(self._samples, gather(self._samples.images, share), share)


def measure_normalization(
    samples: Samples, indices: Array, limit: int = 10_000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1, over at most `limit` images spread evenly.

    Counts whole numbers, so the result is the same on every machine. A channel of one value gets a deviation of 1/255.
    """
    _checked(samples, indices, 0, 1)
    channels = samples.images.shape[3]
    limit = max(1, min(limit, len(indices), _MAX_VALUES // int(np.prod(samples.images.shape[1:]))))
    chosen = indices[np.arange(limit) * len(indices) // limit]
    histograms = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, limit, _CHUNK):
        chunk = samples.images[chosen[start : start + _CHUNK]]
        for channel in range(channels):
            histograms[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255.0
    totals = histograms.sum(axis=1)
    mean = histograms @ values / totals
    variance = histograms @ values**2 / totals - mean**2
    std = np.sqrt(np.maximum(variance, 1 / 255**2))
    return tuple(mean.tolist()), tuple(std.tolist())

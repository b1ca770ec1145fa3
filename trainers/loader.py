"""The making of a batch's images, in this process or in processes that are kept from epoch to epoch."""

import multiprocessing
import signal
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tuneyard.trainers.augment import Augmenter
from tuneyard.trainers.errors import TuneyardError

Array = np.ndarray[Any, np.dtype[Any]]
Request = tuple[int, Array]  # the epoch, and positions in the pool


def gather(images: Array, indices: Array) -> torch.Tensor:
    """The images at these positions, copied into one tensor, uint8 [b, H, W, C]."""
    out = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8)
    # `clip` writes straight into `out`; the default makes a copy first. The positions were checked before.
    np.take(images, indices, axis=0, out=out.numpy(), mode="clip")
    return out


def make_images(images: Array, augmenter: Augmenter | None, epoch: int, indices: Array) -> torch.Tensor:
    """The images at these positions, augmented for this epoch if there is an augmenter; uint8 [b, H, W, C]."""
    if augmenter is None:
        return gather(images, indices)
    out = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8)
    rows = out.numpy()
    for place, index in enumerate(indices.tolist()):
        # A copy: some transforms write into what they are given, and the pool must stay as it is.
        rows[place] = augmenter(images[index].copy(), epoch, index)
    return out


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Where a process finds the images: plain data, so that it goes through pickle at no cost."""

    path: str
    offset: int
    shape: tuple[int, ...]

    def open(self) -> Array:
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=self.offset, shape=self.shape)


class _Maker(Dataset[torch.Tensor | TuneyardError]):
    """Answers whole requests, so that a loader process makes a batch and not a sample."""

    def __init__(self, mapped: _Mapped, augmenter: Augmenter | None) -> None:
        self._mapped = mapped
        self._augmenter = augmenter
        self._images: Array | None = None

    def __getitem__(self, request: Request) -> torch.Tensor | TuneyardError:
        if self._images is None:
            self._images = self._mapped.open()
        try:
            return make_images(self._images, self._augmenter, *request)
        except TuneyardError as error:
            # Handed over and raised there: torch would wrap the text in this process's traceback.
            return error


class _Requests(Sampler[Request]):
    """What the loader asks its processes for; set anew for every epoch."""

    def __init__(self) -> None:
        self.pending: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.pending)


def _start_process(worker: int) -> None:
    import cv2

    # What albumentations warns of was shown by the main process already.
    warnings.simplefilter("ignore")
    # Ctrl-C goes to every process of the terminal: the trainer saves and then stops these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread each: there are as many processes as cores.
    cv2.setNumThreads(0)


def _unchanged(made: Any) -> Any:
    return made


class LoaderProcesses:
    """Processes that make batches ahead of the training loop, in order; kept until `close`.

    They come from a fork server: it has the imports, no threads and no GPU, so forking it is fast and safe, which it is
    not where Comet, Ray or CUDA have started threads. Images reach them as a memory map, not as a copy.
    """

    def __init__(self, images: Array, augmenter: Augmenter | None, processes: int, pin_memory: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        # By name, since only augment.py imports it; a package that is missing is passed over.
        context.set_forkserver_preload(["tuneyard.trainers.loader", "cv2", "albumentations"])
        self._requests = _Requests()
        self._file: Any = None
        self._loader: DataLoader[torch.Tensor | TuneyardError] | None = DataLoader(
            _Maker(self._map(images), augmenter),
            sampler=self._requests,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=processes,
            prefetch_factor=4,
            persistent_workers=True,
            pin_memory=pin_memory,
            multiprocessing_context=context,
            worker_init_fn=_start_process,
            # Without one of its own the loader would draw from torch's global generator, and so change the training.
            generator=torch.Generator(),
        )

    def _map(self, images: Array) -> _Mapped:
        """The images as a file: the one that they are in already, or a temporary one."""
        if type(images) is np.memmap and not isinstance(images.base, np.ndarray) and images.flags.c_contiguous:
            return _Mapped(str(images.filename), int(images.offset), images.shape)
        self._file = tempfile.NamedTemporaryFile(prefix="tuneyard-images-")  # noqa: SIM115 - deleted by `close`
        np.ascontiguousarray(images).tofile(self._file)
        self._file.flush()
        return _Mapped(str(Path(self._file.name)), 0, images.shape)

    def run(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """The images of each request, in order. One run at a time: a new one ends what is left of the last."""
        if self._loader is None:
            raise RuntimeError("these loader processes were closed")
        self._requests.pending = requests
        for made in self._loader:
            if isinstance(made, TuneyardError):
                raise made
            yield made

    def close(self) -> None:
        """Stop the processes. A run that is still open must have been closed before."""
        # The loader stops its processes when its last reference goes.
        self._loader = None
        if self._file is not None:
            self._file.close()
            self._file = None

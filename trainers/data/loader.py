"""The making of a batch's images, in this process or in processes that are kept from epoch to epoch."""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.reduction import DupFd
from typing import IO, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tuneyard.trainers.data.augment import AnyAugmenter
from tuneyard.trainers.errors import TuneyardError

log = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
Request = tuple[int, Array]  # the epoch, and positions in the pool


def gather(images: Array, indices: Array, pin_memory: bool = False) -> torch.Tensor:
    """The images at these positions, copied into one tensor, uint8 [b, H, W, C]."""
    out = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8, pin_memory=pin_memory)
    # `clip` writes straight into `out`; the default makes a copy first. The positions were checked before.
    np.take(images, indices, axis=0, out=out.numpy(), mode="clip")
    return out


def make_images(
    images: Array, augmenter: AnyAugmenter | None, epoch: int, indices: Array, pin_memory: bool = False
) -> torch.Tensor:
    """The images at these positions, augmented for this epoch if there is an augmenter; uint8 [b, H, W, C]."""
    if augmenter is None:
        return gather(images, indices, pin_memory)
    out = torch.empty((len(indices), *images.shape[1:]), dtype=torch.uint8, pin_memory=pin_memory)
    augmenter.make(images, epoch, indices, out.numpy())
    return out


class _SharedImages:
    """Images that a process which is being started gets as a memory map, and not as a copy.

    Those that are a whole memory map already are opened again there; others go through a file without a name, which
    the system removes with the last process that has it open, however that ends.
    """

    def __init__(self, images: Array) -> None:
        self._shape = images.shape
        self._path, self._offset = "", 0
        self._file: IO[bytes] | None = None
        if type(images) is np.memmap and not isinstance(images.base, np.ndarray) and images.flags.c_contiguous:
            self._path, self._offset = str(images.filename), int(images.offset)
            return
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as processes may be started
        np.ascontiguousarray(images).tofile(self._file)
        self._file.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is not None:
            return _open_handle, (DupFd(self._file.fileno()), self._shape)
        return _open_file, (self._path, self._offset, self._shape)

    def close(self) -> None:
        """No process can be started any more; those that were keep their images."""
        if self._file is not None:
            self._file.close()


def _open_file(path: str, offset: int, shape: tuple[int, ...]) -> Array:
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)


def _open_handle(handle: Any, shape: tuple[int, ...]) -> Array:
    with os.fdopen(handle.detach(), "rb") as file:
        return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)


class _Maker(Dataset[torch.Tensor | TuneyardError]):
    """Answers whole requests, so that a loader process makes a batch and not a sample."""

    def __init__(self, images: _SharedImages, augmenter: AnyAugmenter | None) -> None:
        # An array once it has come to a loader process; nothing is made of it before.
        self._images: Any = images
        self._augmenter = augmenter

    def __getitem__(self, request: Request) -> torch.Tensor | TuneyardError:
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

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What albumentations warns of was shown by the main process already.
    warnings.simplefilter("ignore")
    # Ctrl-C goes to every process of the terminal: the trainer saves and then stops these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread each: there are as many processes as cores.
    cv2.setNumThreads(0)


def _end_with_parent() -> None:
    """End when the trainer has gone, however it went. torch watches the fork server, which its children keep alive."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _unchanged(made: Any) -> Any:
    return made


class LoaderProcesses:
    """Processes that make batches ahead of the training loop, in order; kept until `close`.

    They come from a fork server: it has the imports, no threads and no GPU, so forking it is fast and safe, which it is
    not where Comet, Ray or CUDA have started threads. Images reach them as a memory map, not as a copy.

    The fork server takes seconds to import what it needs, so it is started beside the training: until `ready`, the
    caller makes its batches itself.
    """

    def __init__(self, images: Array, augmenter: AnyAugmenter | None, processes: int, pin_memory: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        # By name, since only augment.py imports it; a package that is missing is passed over.
        context.set_forkserver_preload(["tuneyard.trainers.data.loader", "cv2", "albumentations"])
        self._requests = _Requests()
        self._images = _SharedImages(images)
        self._loader: DataLoader[torch.Tensor | TuneyardError] | None = DataLoader(
            _Maker(self._images, augmenter),
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
        self._closing = False
        self._warm = threading.Event()
        threading.Thread(target=self._warm_up, name="loader-warm-up", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Have the processes started?"""
        return self._warm.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the processes have started; False when they have not within this time."""
        return self._warm.wait(timeout_s)

    def _warm_up(self) -> None:
        try:
            # A request for no images comes back once a process has all it needs.
            for _ in self.run([(0, np.zeros(0, dtype=np.int64))]):
                pass
        except (RuntimeError, OSError) as error:
            log.warning("the loader processes do not start (%s): batches are made in the training process", error)
            return
        self._warm.set()
        if self._closing:
            self._drop()

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
        self._closing = True
        # Processes that are still starting are dropped by the thread that starts them: nobody waits for them here.
        if self.ready:
            self._drop()

    def _drop(self) -> None:
        # The loader stops its processes when its last reference goes.
        self._loader = None
        self._images.close()

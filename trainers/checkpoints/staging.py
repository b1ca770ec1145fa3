"""A training state, copied into memory that is kept from save to save.

The copy is all that the training loop waits for, and for most of it not at once: weights and the optimizer's state stay
as they are until the next optimizer step, so they are copied while that step's gradients are computed (as CheckFreq
does: Mohan et al., FAST 2021). There is nothing left to serialise afterwards: the memory's bytes are hashed and
uploaded as they are.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from tuneyard.trainers.checkpoints.copying import copy_all, copy_later
from tuneyard.trainers.checkpoints.layout import Layout, TensorSpec, lay_out, specs_of
from tuneyard.trainers.checkpoints.region import new_region
from tuneyard.trainers.checkpoints.state_tree import Json, pack


@dataclass(frozen=True, slots=True)
class Packed:
    """One part of a state before it is copied."""

    tensors: Mapping[str, torch.Tensor]
    specs: tuple[TensorSpec, ...]
    skeleton: Json

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors alone."""
        return sum(spec.size_bytes for spec in self.specs)

    @property
    def on_gpu(self) -> bool:
        """Is any of the tensors on a GPU?"""
        return any(tensor.is_cuda for tensor in self.tensors.values())


def pack_state(state: Mapping[str, object]) -> dict[str, Packed]:
    """The parts of `state`, nothing copied yet; raises `CheckpointError` where it holds what a checkpoint cannot."""
    packed = {}
    for name, tree in state.items():
        tensors, skeleton = pack(tree)
        packed[name] = Packed(tensors, specs_of(tensors), skeleton)
    return packed


class StagedPart:
    """The memory of one part; made for one set of shapes."""

    def __init__(self, packed: Packed) -> None:
        self._specs = packed.specs
        self._pinned = packed.on_gpu
        self.layout: Layout = lay_out(packed.specs)
        self._region = new_region(self.layout.size_bytes, pinned=self._pinned, forks=False)
        self._views = {place.spec.name: place.view(self._region) for place in self.layout.places}
        self._copied: list[torch.cuda.Event] = []
        self._later: Future[None] | None = None
        self.skeleton: Json = None

    def fits(self, packed: Packed) -> bool:
        """Can it take these tensors?"""
        return self._specs == packed.specs and self._pinned == packed.on_gpu

    def stage(self, packed: Packed, steady: Collection[int] = ()) -> None:
        """Copy. From a GPU the copies are only queued; what is queued there later cannot overtake them.

        `steady`: addresses of tensors in main memory that stay as they are until `settle`: they are copied meanwhile.
        """
        self._finish_copies()  # an older wish in this memory may still be on its way
        here = [(self._views[name], tensor) for name, tensor in packed.tensors.items() if not tensor.is_cuda]
        later = [pair for pair in here if pair[1].data_ptr() in steady]
        self._later = copy_later(later) if later else None
        copy_all(pair for pair in here if pair[1].data_ptr() not in steady)
        for device in {tensor.device for tensor in packed.tensors.values() if tensor.is_cuda}:
            self._queue(packed, device)
        self.skeleton = packed.skeleton

    def pieces(self) -> list[memoryview]:
        """The bytes of each blob, in order, valid until the next `stage`."""
        self._finish_copies()
        whole = self._region.numpy().data
        starts = (0, *self.layout.ends)
        return [whole[start:end] for start, end in zip(starts, self.layout.ends, strict=False)]

    def settle(self) -> None:
        """Return when what was to be copied from main memory is copied."""
        later = self._later  # left in its place: the thread that commits waits for it, too
        if later is not None:
            later.result()

    def _queue(self, packed: Packed, device: torch.device) -> None:
        """Queue the copies from one GPU on a stream of their own; the training's next work there comes after them."""
        training, copying = torch.cuda.current_stream(device), _copy_stream(device)
        copying.wait_stream(training)
        with torch.cuda.stream(copying):
            for name, tensor in packed.tensors.items():
                if tensor.device == device:
                    self._views[name].copy_(tensor, non_blocking=True)
        training.wait_stream(copying)
        self._copied.append(copying.record_event())

    def _finish_copies(self) -> None:
        self.settle()
        for event in self._copied:
            event.synchronize()
        self._copied = []


class Staging:
    """Memory for a whole state: one region for each of its parts that has tensors."""

    def __init__(self) -> None:
        self.parts: dict[str, StagedPart] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds."""
        return sum(part.layout.size_bytes for part in self.parts.values())

    def let_go(self) -> None:
        """Hold no memory until the next `stage`."""
        self.parts = {}

    def settle(self) -> None:
        """Return when everything in main memory is copied, also what was `steady`."""
        for part in self.parts.values():
            part.settle()

    def stage(self, packed: Mapping[str, Packed], steady: Collection[int] = ()) -> None:
        """Copy every part, or begin to. Memory that no longer fits is let go before any new is taken."""
        self.parts = {name: part for name, part in self.parts.items() if name in packed and part.fits(packed[name])}
        for name, one in packed.items():
            if name not in self.parts:
                self.parts[name] = StagedPart(one)
            self.parts[name].stage(one, steady)


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]

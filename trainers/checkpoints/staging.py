"""One part of a training state, copied into a buffer that is itself a safetensors file.

The copy is all that the training loop waits for. There is nothing left to serialise afterwards: the buffer's bytes are
hashed and uploaded as they are. The format (a length, a JSON header, the tensors without holes) is described at
https://huggingface.co/docs/safetensors; any safetensors reader opens the files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch

from tuneyard.trainers.checkpoints.state_tree import Json, pack
from tuneyard.trainers.errors import CheckpointError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}

_ALIGNMENT_BYTES = 64
"""The tensors start at a multiple of this, so that each can be viewed in place, whatever its dtype."""

Layout = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Buffer:
    layout: Layout
    pinned: bool
    image: torch.Tensor
    views: dict[str, torch.Tensor]


class StagedPart:
    """The staging buffer of one part; kept from save to save, and made anew only when the tensors' shapes change."""

    def __init__(self) -> None:
        self._buffer: _Buffer | None = None
        self._copied: list[torch.cuda.Event] = []
        self._skeleton: Json = None

    def stage(self, tree: object) -> None:
        """Copy `tree`'s tensors into the buffer.

        For tensors on a GPU this only queues the copies, on the current stream: what is queued there afterwards (the
        next optimizer step) cannot overtake them.
        """
        tensors, skeleton = pack(tree)
        self._finish_copies()  # an older wish in this buffer may still be on its way from another stream
        on_gpu = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        layout = tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
        if self._buffer is None or self._buffer.layout != layout or self._buffer.pinned != bool(on_gpu):
            self._buffer = _new_buffer(layout, pinned=bool(on_gpu))
        for name, tensor in tensors.items():
            self._buffer.views[name].copy_(tensor, non_blocking=tensor.is_cuda)
        self._copied = [torch.cuda.current_stream(device).record_event() for device in on_gpu]
        self._skeleton = skeleton

    def image(self) -> tuple[memoryview, Json]:
        """The safetensors file, valid until the next `stage`, and the skeleton that belongs to it."""
        if self._buffer is None:
            raise RuntimeError("image() before stage()")
        self._finish_copies()
        return self._buffer.image.numpy().data, self._skeleton

    def _finish_copies(self) -> None:
        for event in self._copied:
            event.synchronize()
        self._copied = []


class Staging:
    """Staging buffers for a whole state: one for each of its top-level parts."""

    def __init__(self) -> None:
        self.parts: dict[str, StagedPart] = {}

    def stage(self, state: Mapping[str, object]) -> None:
        """Copy every part; buffers of parts that the state no longer has are let go."""
        self.parts = {name: self.parts.get(name) or StagedPart() for name in state}
        for name, tree in state.items():
            self.parts[name].stage(tree)


def _new_buffer(layout: Layout, *, pinned: bool) -> _Buffer:
    for name, dtype, _ in layout:
        if dtype not in _DTYPES:
            allowed = ", ".join(sorted(str(known).removeprefix("torch.") for known in _DTYPES))
            raise CheckpointError(f"checkpoint: tensor {name} is of {dtype}. Allowed: {allowed}.")
    # Wide dtypes first: then every tensor's place is a multiple of its element's size, without holes between them.
    order = sorted(layout, key=lambda entry: (-entry[1].itemsize, entry[0]))
    sizes = [dtype.itemsize * torch.Size(shape).numel() for _, dtype, shape in order]
    ends = list(accumulate(sizes))
    header = _header(order, sizes, ends)
    image = torch.empty(len(header) + sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    image[: len(header)] = torch.frombuffer(header, dtype=torch.uint8)
    views = {
        name: image[len(header) + end - size : len(header) + end].view(dtype).view(shape)
        for (name, dtype, shape), size, end in zip(order, sizes, ends, strict=True)
    }
    return _Buffer(layout, pinned, image, views)


def _header(order: list[tuple[str, torch.dtype, tuple[int, ...]]], sizes: list[int], ends: list[int]) -> bytearray:
    entries = {
        name: {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [end - size, end]}
        for (name, dtype, shape), size, end in zip(order, sizes, ends, strict=True)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    return bytearray(len(text).to_bytes(8, "little") + text)

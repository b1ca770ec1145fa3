"""Where the tensors of one part of a state lie in its bytes, and where these bytes are cut into blobs.

A blob is what is stored, named and skipped as a whole, so the cuts decide how much a small change costs, and how many
requests a save makes. Large tensors have blobs of their own; smaller ones share some, neighbours with neighbours, and
only with those of about their size: a network's biases and norms often change where its kernels do not. The order is
that of the state, which is the same at every save: what has not changed has the same blobs again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tuneyard.trainers.checkpoints.state_tree import memory_name
from tuneyard.trainers.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""The names are those of the safetensors format."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

ALIGNMENT_BYTES = 64
LARGE_BYTES = 4 * 2**20
"""From this size on a tensor has blobs of its own."""
SIZES_BYTES = (2**18, 2**20, LARGE_BYTES)
"""Smaller tensors share blobs with those that lie between the same two of these sizes."""
PACKS = 48
PACK_BYTES = (2**20, 4 * 2**20)
"""Blobs that are shared have a `PACKS`-th of their part at most, within these limits."""
PIECE_BYTES = 8 * 2**20
"""A tensor of twice this size or more is cut into pieces of 8 to 16 MiB, which travel side by side."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor needs to be laid out; `memory` is "", "channels_last" or "channels_last_3d"."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    memory: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor whose elements begin at byte `offset` of its part, in the order in which its memory holds them."""

    spec: TensorSpec
    offset: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.spec.size_bytes

    def view(self, region: torch.Tensor) -> torch.Tensor:
        """The tensor in `region`, the part's bytes (uint8); it shares their memory."""
        flat = region[self.offset : self.end].view(self.spec.dtype)
        if not self.spec.memory:
            return flat.view(self.spec.shape)
        batch, channels, *rest = self.spec.shape
        return flat.view(batch, *rest, channels).movedim(-1, 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Every tensor's place, and the ends of the blobs, ascending; the last is the part's size in bytes."""

    places: tuple[TensorPlace, ...]
    ends: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the part, with the few that fill it up between tensors."""
        return self.ends[-1] if self.ends else 0


def specs_of(tensors: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    """One spec for each tensor; CheckpointError for a dtype that no checkpoint can hold."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            allowed = ", ".join(sorted(str(known).removeprefix("torch.") for known in DTYPE_NAMES))
            raise CheckpointError(f"checkpoint: tensor {name} is of {tensor.dtype}. Allowed: {allowed}.")
    return tuple(
        TensorSpec(name, tensor.dtype, tuple(tensor.shape), memory_name(tensor)) for name, tensor in tensors.items()
    )


def lay_out(specs: Sequence[TensorSpec]) -> Layout:
    """Give each tensor its place, the small ones first, and cut."""
    places: list[TensorPlace] = []
    ends: list[int] = []
    least, most = PACK_BYTES
    pack_bytes = min(max(sum(spec.size_bytes for spec in specs) // PACKS, least), most)
    began = offset = 0
    for alike in _by_size(specs):
        for spec in alike:
            if offset > began and offset + spec.size_bytes - began > pack_bytes:
                ends.append(offset)
                began = offset
            places.append(TensorPlace(spec, offset))
            offset += _aligned(spec.size_bytes)
        if offset > began:
            ends.append(offset)
            began = offset
    for spec in (spec for spec in specs if spec.size_bytes >= LARGE_BYTES):
        places.append(TensorPlace(spec, offset))
        ends += _pieces(offset, _aligned(spec.size_bytes))
        offset = ends[-1]
    return Layout(tuple(places), tuple(ends))


def _by_size(specs: Sequence[TensorSpec]) -> list[list[TensorSpec]]:
    """The tensors that share blobs, the smallest first. Those that would fill none go with the next."""
    groups: list[list[TensorSpec]] = []
    above = 0
    for below in SIZES_BYTES:
        group = [spec for spec in specs if above <= spec.size_bytes < below]
        if below == LARGE_BYTES or sum(spec.size_bytes for spec in group) >= PACK_BYTES[0]:
            groups.append(group)
            above = below
    return groups


def _pieces(start: int, size: int) -> list[int]:
    count = max(1, size // PIECE_BYTES)
    each = _aligned(-(-size // count))
    return [min(start + each * number, start + size) for number in range(1, count + 1)]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

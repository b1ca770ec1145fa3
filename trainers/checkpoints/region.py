"""Large pieces of memory for the bytes of a part: exactly as large as asked for, and given back at once when let go."""

import contextlib
import mmap
import weakref

import torch

_HUGE_BYTES = 4 * 2**20


def new_region(size: int, *, pinned: bool = False) -> torch.Tensor:
    """`size` zero bytes (uint8). `pinned`: a GPU can copy into them by itself.

    Torch's own pinned memory would do, but it comes in powers of two: up to twice of what a state needs.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, size)
    if size >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)  # the first write then costs a fault in 2 MiB, and not in 4 KiB
    region = torch.frombuffer(pages, dtype=torch.uint8)
    if pinned:
        _pin(region)
    return region


def _pin(region: torch.Tensor) -> None:
    runtime = torch.cuda.cudart()
    address = region.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, region.numel(), 0))
    # The memory goes with the storage, which views keep alive too; not with this one tensor.
    weakref.finalize(region.untyped_storage(), runtime.cudaHostUnregister, address)

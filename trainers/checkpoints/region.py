"""Large pieces of memory for the bytes of a part: exactly as large as asked for, and given back at once when let go."""

import mmap
import weakref

import torch


def new_region(size: int, *, pinned: bool = False, forks: bool = True) -> torch.Tensor:
    """`size` zero bytes (uint8). `pinned`: a GPU can copy into them by itself.

    `forks`: processes that this one forks have them, too, and what is written here from then on takes new memory.

    Torch's own pinned memory would do, but it comes in powers of two: up to twice of what a state needs.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    # Private, since a fault of shared memory costs half as much again; and not huge pages: on a virtual machine whose
    # host takes free memory back, as ours, a new huge page costs five times as much as small ones.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if not forks and hasattr(mmap, "MADV_DONTFORK"):
        pages.madvise(mmap.MADV_DONTFORK)
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

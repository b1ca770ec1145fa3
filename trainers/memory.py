"""Memory of this process, on the host and on the GPU: its peak, what is held now, and what to do when it runs out."""

import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from tuneyard.trainers.errors import OutOfMemoryError
from tuneyard.trainers.record import Memory

_CPU_ALLOCATOR = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_LEFT_ON_GPU = 0.05
"""Of the GPU's memory: what libraries keep there. More than this after a release means that something leaked."""


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Begin to measure the peak anew, so that a kept process tells each run's own."""
    # Without that file, or the right to it, the peak is the whole process's, which is never too small.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory_peak(imports_bytes: int) -> Memory:
    """The peak since `reset_peak`."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return Memory(peak_bytes=_host_peak(), imports_bytes=imports_bytes, gpu_peak_bytes=gpu)


def held_bytes() -> int:
    """Resident memory without mapped files, such as the decoded images, which the system can drop at any time."""
    found = _status("RssAnon:", "RssShmem:")
    return sum(found) if found else resident_bytes()


def ran_out_of_memory(error: BaseException) -> bool:
    """Is this error, or one that it was raised from, the lack of memory on the GPU or on the host?"""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError | OutOfMemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(text in str(cause) for text in _CPU_ALLOCATOR):
            return True
        cause = cause.__cause__
    return False


def release_memory(limit_bytes: float | None = None) -> bool:
    """Give back what nothing refers to any more. False where the process still holds too much to train again."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    if limit_bytes is not None and held_bytes() > limit_bytes:
        return False
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return True
    torch.cuda.empty_cache()
    total: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.cuda.memory_allocated() <= _LEFT_ON_GPU * total


def _host_peak() -> int:
    peak = _status("VmHWM:")
    return peak[0] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(*names: str) -> list[int]:
    """These lines of Linux's account of this process, in bytes; empty elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(names)]

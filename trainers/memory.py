"""Peak memory of this process, on the host and on the GPU."""

import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from tuneyard.trainers.record import Memory


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


def _host_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

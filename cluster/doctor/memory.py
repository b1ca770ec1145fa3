"""Main memory and shared memory of a machine, or of the container that this runs in."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from tuneyard.cluster.amounts import size_text
from tuneyard.cluster.doctor.findings import Finding, failure, ok, warning

MAIN = "memory"
SHARED = "shared memory"

_SHM = Path("/dev/shm")  # noqa: S108  (looked at, not written to)
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""A container's own limit, in version 2 and 1 of the kernel's control groups."""

_LITTLE_BYTES = 2e9
_TOO_LITTLE_BYTES = 0.5e9
_RAY_SHARE = 0.3
"""Ray's object store takes this share of the memory, in /dev/shm where it fits."""

_SMALL_SHM_BYTES = 1e9


def check_memory() -> Iterator[Finding]:
    """Room in the main memory, and in the part of it that processes share."""
    memory = psutil.virtual_memory()
    total = container_limit(memory.total)
    yield judge_main(min(memory.available, total), total, container=total < memory.total)
    if not _SHM.is_dir():
        yield failure(SHARED, f"there is no {_SHM}", "Mount a tmpfs there: Ray and NCCL need it.")
        return
    usage = shutil.disk_usage(_SHM)
    yield judge_shared(usage.free, usage.total, total)


def judge_main(available: int, total: int, *, container: bool) -> Finding:
    """The finding about the main memory, in bytes."""
    where = " (the container's limit)" if container else ""
    told = f"{size_text(available)} of {size_text(total)}{where} available"
    data = {"available_bytes": available, "total_bytes": total}
    if available < _TOO_LITTLE_BYTES:
        return failure(MAIN, told, "End what else runs here: a worker needs more than that to start.", data)
    if available < _LITTLE_BYTES:
        return warning(MAIN, told, "One worker with torch takes about 1 GB: run few at a time here.", data)
    return ok(MAIN, told, data)


def judge_shared(free: int, size: int, memory: int) -> Finding:
    """The finding about /dev/shm, in bytes, on a machine with so much main memory."""
    told = f"{_SHM}: {size_text(free)} of {size_text(size)} free"
    data = {"free_bytes": free, "size_bytes": size}
    if size < min(_SMALL_SHM_BYTES, _RAY_SHARE * memory):
        return warning(
            SHARED,
            told,
            "Ray's object store goes to the disk, and NCCL may fail. In a container: start it with --shm-size=8g.",
            data,
        )
    return ok(SHARED, told, data)


def container_limit(total: int) -> int:
    """The memory that this process may use: the container's limit, where it has one below `total` bytes."""
    for path in _LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total

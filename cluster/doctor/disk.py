"""Room and speed of the disks at the places that count: written through to the disk, and read back from it."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneyard.cluster.amounts import rate_text, size_text
from tuneyard.cluster.doctor.findings import Finding, failure, ok, warning

_BLOCK_BYTES = 4 * 2**20
_MOST_BYTES = 64 * 2**20
_MOST_S = 4.0
_LITTLE_BYTES = 10e9
_TOO_LITTLE_BYTES = 1e9
_SLOW_BYTES_PER_S = 50e6
_RAY_STOPS_AT = 0.95
"""Ray takes no more objects onto a disk that is this full (its local_fs_capacity_threshold)."""

_NEARLY = 0.90


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that a run writes to; it need not exist yet. `ray`: Ray's own files lie there."""

    title: str
    folder: Path
    ray: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """What was measured in a folder."""

    folder: Path
    free_bytes: int
    total_bytes: int
    write_bytes_per_s: float
    read_bytes_per_s: float

    @property
    def used(self) -> float:
        """The share that is not free to us, which is what Ray looks at."""
        return 1.0 - self.free_bytes / self.total_bytes if self.total_bytes else 1.0


def check_disks(places: Sequence[Place]) -> Iterator[Finding]:
    """A finding for each disk that these places are on, by the titles of its places."""
    for group in _by_disk(places):
        name = f"disk: {', '.join(place.title for place in group)}"
        folder = _existing(group[0].folder)
        try:
            disk = measure(folder)
        except OSError as error:
            yield failure(
                name,
                f"{folder}: {error.strerror or error}",
                "Give this user the right to write there, free some room, or choose another folder.",
            )
            continue
        yield judge(name, disk, ray=any(place.ray for place in group))


def judge(name: str, disk: Disk, *, ray: bool) -> Finding:
    """The finding about a measured disk; `ray`: whether Ray's own files lie on it."""
    speed = f"writes {rate_text(disk.write_bytes_per_s)}, reads {rate_text(disk.read_bytes_per_s)}"
    room = f"{size_text(disk.free_bytes)} of {size_text(disk.total_bytes)} free"
    told = f"{disk.folder}: {room}; {speed}"
    data = {
        "folder": str(disk.folder), "free_bytes": disk.free_bytes, "total_bytes": disk.total_bytes,
        "write_bytes_per_s": round(disk.write_bytes_per_s), "read_bytes_per_s": round(disk.read_bytes_per_s),
    }  # fmt: skip
    if disk.free_bytes < _TOO_LITTLE_BYTES:
        return failure(name, told, "Free some room: the next checkpoint or image cache may not fit.", data)
    if ray and disk.used >= _RAY_STOPS_AT:
        return failure(name, told, f"Free some room: on a disk over {_RAY_STOPS_AT:.0%} full Ray stores nothing.", data)
    if ray and disk.used >= _NEARLY:
        return warning(name, told, f"Free some room: over {_RAY_STOPS_AT:.0%} full, Ray stores nothing more.", data)
    if disk.free_bytes < _LITTLE_BYTES:
        return warning(name, told, "Free some room, before checkpoints and the image cache need it.", data)
    if min(disk.write_bytes_per_s, disk.read_bytes_per_s) < _SLOW_BYTES_PER_S:
        return warning(
            name, told, "A slow disk: put the image cache (data.cache_dir) and Ray's scratch onto a local SSD.", data
        )
    return ok(name, told, data)


def measure(folder: Path) -> Disk:
    """Write up to 64 MiB, for some seconds at most, flush them, and read them back past the page cache. OSError."""
    block = os.urandom(_BLOCK_BYTES)  # disks that compress must not look fast
    with tempfile.TemporaryFile(dir=folder, prefix=".tuneyard-doctor-", buffering=0) as file:
        begun = time.monotonic()
        written = 0
        while written < _MOST_BYTES and time.monotonic() - begun < _MOST_S:
            written += file.write(block)
        os.fsync(file.fileno())
        write_s = time.monotonic() - begun
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun = time.monotonic()
        read = 0
        while time.monotonic() - begun < _MOST_S and (piece := file.read(_BLOCK_BYTES)):
            read += len(piece)
        read_s = time.monotonic() - begun
    usage = shutil.disk_usage(folder)
    return Disk(folder, usage.free, usage.total, written / write_s, read / max(read_s, 1e-6))


def _by_disk(places: Sequence[Place]) -> list[list[Place]]:
    groups: dict[int, list[Place]] = {}
    for place in places:
        groups.setdefault(_existing(place.folder).stat().st_dev, []).append(place)
    return list(groups.values())


def _existing(folder: Path) -> Path:
    """The folder, or of one that does not exist yet the nearest parent that does."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())

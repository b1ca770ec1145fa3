"""Image files, decoded and resized once per machine into a memory-mapped array that every process shares."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.decoded_cache import Building, DecodedCache
from tuneyard.trainers.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

# Part of every cache key: raise it when decoding changes, or the cache's files do.
_FORMAT = 2
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class DecodedFiles:
    """The files that could be decoded: images uint8 [k, S, S, C], read-only on the disk; which files; what failed."""

    images: Array
    kept: Array  # int64 [k], positions among the paths that were asked for
    digest: str  # sha256 hex over the kept files' bytes, in order
    failures: tuple[tuple[Path, str], ...]


class _HasColourError(Exception):
    """An image has colour, though all were taken for grey so far."""


class _UndecodableError(Exception):
    """This file cannot be used; the text says why."""


def cache_root(config: DataConfig) -> Path:
    """The folder that decoded images and downloads are kept in."""
    return Path(config.cache_dir).expanduser() if config.cache_dir else Path.home() / ".cache" / "tuneyard"


def open_cache(config: DataConfig) -> DecodedCache:
    """The decoded images that this config shares with others on this machine, within its limit."""
    return DecodedCache(cache_root(config), None if config.cache_gb is None else int(config.cache_gb * 1e9))


def decode_files(
    paths: Sequence[Path],
    size: int,
    channels: Literal["auto"] | int,
    cache: DecodedCache,
    on_error: Literal["fail", "skip"],
) -> DecodedFiles:
    """The images of these files, `size` pixels square, from the cache or put there now.

    Grey (1 channel) or RGB (3); auto is grey only if every image is. Alpha is dropped, 16 bits become 8, the EXIF
    orientation is applied. Raises DataError that names the damaged, missing or unreadable files, unless `on_error` is
    skip; and where the cache has no room.
    """

    def build(entry: Building) -> dict[str, Any]:
        return _build(entry, paths, size, channels, on_error)

    images, index = cache.entry(_cache_key(paths, size, channels), f"{len(paths):,} images", build)
    failures = tuple((paths[position], reason) for position, reason in index["failures"])
    if failures and on_error == "fail":
        raise _refusal(failures, len(paths))
    failed = {position for position, _ in index["failures"]}
    kept = np.array([position for position in range(len(paths)) if position not in failed], dtype=np.int64)
    return DecodedFiles(images, kept, index["digest"], failures)


def _cache_key(paths: Sequence[Path], size: int, channels: Literal["auto"] | int) -> str:
    """Changes whenever a file was replaced, grew, went away, or became readable."""
    key = hashlib.sha256(json.dumps([_FORMAT, size, channels]).encode())
    for path in paths:
        try:
            facts = path.stat()
            state = (facts.st_size, facts.st_mtime_ns, os.access(path, os.R_OK))
        except OSError:
            state = (-1, -1, False)
        key.update(f"{path.absolute()}\0{state}\n".encode(errors="surrogateescape"))
    return key.hexdigest()[:32]


def _build(
    entry: Building,
    paths: Sequence[Path],
    size: int,
    channels: Literal["auto"] | int,
    on_error: Literal["fail", "skip"],
) -> dict[str, Any]:
    """Decode everything into `entry`; returns its index."""
    try:
        reasons, digests = _decode_all(entry, paths, size, 1 if channels == "auto" else channels, channels == "auto")
    except _HasColourError:
        reasons, digests = _decode_all(entry, paths, size, 3, False)
    failures = [(position, reason) for position, reason in enumerate(reasons) if reason is not None]
    if failures and (on_error == "fail" or len(failures) == len(paths)):
        raise _refusal([(paths[position], reason) for position, reason in failures], len(paths))
    if failures:
        entry.drop([position for position, _ in failures])
    digest = hashlib.sha256(b"".join(each for each in digests if each is not None)).hexdigest()
    return {"failures": failures, "digest": digest}


def _refusal(failures: Sequence[tuple[Path, str]], count: int) -> DataError:
    shown = "\n".join(f"  {path}: {reason}" for path, reason in failures[:10])
    more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
    return DataError(
        f"{len(failures)} of {count} images cannot be used:\n{shown}{more}\n"
        "Mend or remove them, or set data.on_error: skip to train without them."
    )


def _decode_all(
    entry: Building, paths: Sequence[Path], size: int, channels: int, grey_only: bool
) -> tuple[list[str | None], list[bytes | None]]:
    """Fill the entry; for each path the reason why it failed, or None, and the SHA-256 of its bytes, or None."""
    images = entry.images((len(paths), size, size, channels))
    reasons: list[str | None] = [None] * len(paths)
    digests: list[bytes | None] = [None] * len(paths)

    def decode_block(start: int) -> None:
        for position in range(start, min(start + _BLOCK, len(paths))):
            try:
                data = _read(paths[position])
                images[position] = _decode(data, size, channels, grey_only)
                digests[position] = hashlib.sha256(data).digest()
            except _UndecodableError as error:
                reasons[position] = str(error)

    # Threads, not processes: reading, hashing, decoding and resizing all let go of the interpreter's lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        futures = [pool.submit(decode_block, start) for start in range(0, len(paths), _BLOCK)]
        try:
            for number, future in enumerate(futures):
                entry.progress(number * _BLOCK, len(paths))
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return reasons, digests


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _UndecodableError("the file does not exist") from None
    except OSError as error:
        raise _UndecodableError(f"the file cannot be read: {error.strerror}") from None
    if not data:
        raise _UndecodableError("the file is empty")
    return data


def _decode(data: bytes, size: int, channels: int, grey_only: bool) -> Array:
    """Pixels uint8 [size, size, channels]; grey or RGB."""
    if not _is_whole(data):
        raise _UndecodableError("the image is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise _UndecodableError(f"the image cannot be decoded: {error.err}") from None
    if image is None:
        raise _UndecodableError("the image is damaged, or is in no known format")
    if image.ndim == 3 and grey_only:
        raise _HasColourError
    if image.ndim == 3 and channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.ndim == 3 else cv2.COLOR_GRAY2RGB)
    return resize(image, size).reshape(size, size, channels)


def _is_whole(data: bytes) -> bool:
    """False for a JPEG, PNG or WebP that ends early: OpenCV before 5 fills such images up, and says nothing."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-4096:]
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _jpeg_ends(data: bytes) -> bool:
    """Is there an end-of-image marker after the main image's scan? A thumbnail in the header has one of its own."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:
            return data.find(b"\xff\xd9", place) >= 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    # Fill bytes or an odd header: look for the marker at the end alone.
    return b"\xff\xd9" in data[-4096:]


def resize(image: Array, size: int) -> Array:
    """uint8 [H, W] or [H, W, C] to `size` square; area averages when it shrinks, else linear interpolation."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = image.shape[0] >= size and image.shape[1] >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

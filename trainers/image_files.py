"""Image files, decoded and resized once per machine into a memory-mapped array that every process shares."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from tuneyard.trainers.errors import DataError
from tuneyard.trainers.experiment import DataConfig

Array = np.ndarray[Any, np.dtype[Any]]

# Part of every cache key: raise it when decoding changes.
_FORMAT = 1
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


def decode_files(
    paths: Sequence[Path], size: int, channels: Literal["auto"] | int, root: Path, on_error: Literal["fail", "skip"]
) -> DecodedFiles:
    """The images of these files, `size` pixels square, from the cache under `root` or put there now.

    Grey (1 channel) or RGB (3); auto is grey only if every image is. Alpha is dropped, 16 bits become 8, the EXIF
    orientation is applied. A crash leaves no half cache, and processes that want the same one wait for the first.
    Raises DataError that names the damaged, missing or unreadable files, unless `on_error` is skip.
    """
    folder = root / f"images-{_cache_key(paths, size, channels)}"
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_suffix(".lock")):
                if not folder.is_dir():
                    _build(folder, paths, size, channels, on_error)
        index = json.loads((folder / "index.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r")
    except OSError as error:
        raise DataError(f"The cache folder {root} cannot be used: {error}. Set data.cache_dir to another.") from error
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path, paths: Sequence[Path], size: int, channels: Literal["auto"] | int, on_error: Literal["fail", "skip"]
) -> None:
    """Decode everything into `folder`, which appears under its name only when it is whole."""
    part = folder.with_suffix(".part")
    # What a crashed process left; we hold the lock, so nobody is writing to it.
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        try:
            reasons, digests = _decode_all(part, paths, size, 1 if channels == "auto" else channels, channels == "auto")
        except _HasColourError:
            reasons, digests = _decode_all(part, paths, size, 3, False)
        failures = [(position, reason) for position, reason in enumerate(reasons) if reason is not None]
        if failures and (on_error == "fail" or len(failures) == len(paths)):
            raise _refusal([(paths[position], reason) for position, reason in failures], len(paths))
        if failures:
            _drop_rows(part, [position for position, _ in failures])
        digest = hashlib.sha256(b"".join(each for each in digests if each is not None)).hexdigest()
        (part / "index.json").write_text(json.dumps({"failures": failures, "digest": digest}))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refusal(failures: Sequence[tuple[Path, str]], count: int) -> DataError:
    shown = "\n".join(f"  {path}: {reason}" for path, reason in failures[:10])
    more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
    return DataError(
        f"{len(failures)} of {count} images cannot be used:\n{shown}{more}\n"
        "Mend or remove them, or set data.on_error: skip to train without them."
    )


def _decode_all(
    part: Path, paths: Sequence[Path], size: int, channels: int, grey_only: bool
) -> tuple[list[str | None], list[bytes | None]]:
    """Fill images.npy; for each path the reason why it failed, or None, and the SHA-256 of its bytes, or None."""
    images = np.lib.format.open_memmap(
        part / "images.npy", mode="w+", dtype=np.uint8, shape=(len(paths), size, size, channels)
    )
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
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    images.flush()
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


def _drop_rows(part: Path, failed: Sequence[int]) -> None:
    """Write images.npy again without these rows."""
    whole = np.load(part / "images.npy", mmap_mode="r")
    kept = np.delete(np.arange(len(whole)), failed)
    smaller = np.lib.format.open_memmap(
        part / "kept.npy", mode="w+", dtype=np.uint8, shape=(len(kept), *whole.shape[1:])
    )
    for start in range(0, len(kept), _BLOCK):
        smaller[start : start + _BLOCK] = whole[kept[start : start + _BLOCK]]
    smaller.flush()
    (part / "kept.npy").rename(part / "images.npy")

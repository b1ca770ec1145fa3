"""Decoded images on the disk, in memory-mapped arrays that every process of a machine shares.

An entry is a folder with images.npy, index.json and `used`. It is built as NAME.part, under the lock NAME.lock, and
gets its name when it is whole. Who reads it holds a shared lock on `used`, which the system lets go with the process,
so that only entries that nobody reads make room for others. Entries come to be and go under the file `lock`.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneyard.trainers.data.file_locks import exclusive, hold_shared, unheld
from tuneyard.trainers.errors import DataError

log = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
Index = dict[str, Any]

_TOUCHED_EVERY_S = 3600.0
_BLOCK = 256


class _DamagedError(Exception):
    """An entry that is not what was written; the text says why."""


@dataclass(frozen=True, slots=True)
class DecodedCache:
    """The cache in the folder `root`. limit_bytes: what its entries may take together, or None."""

    root: Path
    limit_bytes: int | None = None

    def entry(self, name: str, what: str, build: "Callable[[Building], Index]") -> tuple[Array, Index]:
        """The images of this entry, read-only on the disk, and its index; built now if there is no such entry.

        what: what is decoded, for messages, such as "12,000 images". build: makes `Building.images` and fills it;
        what it returns, JSON, is the entry's index. Of several processes one builds, and the others wait and are told.
        Raises DataError where the disk or the budget has no room; then nothing is left of the new entry.
        """
        try:
            return self._entry(self.root / f"images-{name}", what, build)
        except OSError as error:
            raise DataError(
                f"The cache folder {self.root} cannot be used: {error}. Set data.cache_dir to another."
            ) from error

    def _entry(self, folder: Path, what: str, build: "Callable[[Building], Index]") -> tuple[Array, Index]:
        with suppress(_DamagedError):
            found = _open(folder)
            if found is not None:
                return found
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive(_beside(folder, ".lock"), lambda: _waiting(folder, what)):
            try:
                found = _open(folder)  # made by the process that we waited for
            except _DamagedError as error:
                log.warning("the decoded images in %s are damaged (%s): they are made again", folder, error)
                with exclusive(self.root / "lock"):
                    _discard(folder)
                found = None
            return found or self._build(folder, what, build)

    def _build(self, folder: Path, what: str, build: "Callable[[Building], Index]") -> tuple[Array, Index]:
        part = _beside(folder, ".part")
        # What a crashed process left; we hold the lock, so nobody is writing to it.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            index = json.dumps(build(Building(self, part, what)))
            with (part / "images.npy").open("rb") as file:
                # Before the entry has its name: a machine that goes down must not leave one with holes.
                os.fsync(file.fileno())
            digest = hashlib.sha256(index.encode()).hexdigest()
            (part / "index.json").write_text(json.dumps({"index": index, "sha256": digest}))
            for passing in ("progress", "reserved"):
                (part / passing).unlink(missing_ok=True)
            (part / "used").touch()
            # Held before the entry has its name, or it could be evicted before it is opened.
            held = hold_shared(part / "used")
            part.rename(folder)
            return _load(folder, held)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def make_room(self, part: Path, wanted_bytes: int, what: str) -> None:
        """Reserve so much for the entry that is built in `part`: evicts the entries that were not used for longest."""
        with exclusive(self.root / "lock"):
            self._sweep()
            if self.limit_bytes is not None:
                self._evict(part, wanted_bytes, self.limit_bytes, what)
            (part / "reserved").write_text(str(wanted_bytes))

    def _sweep(self) -> None:
        """Remove what crashed processes left: half entries, half-evicted ones, and locks that nobody holds."""
        for gone in self.root.glob("images-*.gone"):
            shutil.rmtree(gone, ignore_errors=True)
        for path in {
            each.with_suffix(".lock") for kind in ("lock", "part") for each in self.root.glob(f"images-*.{kind}")
        }:
            with unheld(path) as crashed:
                if crashed:
                    shutil.rmtree(path.with_suffix(".part"), ignore_errors=True)
                    path.unlink(missing_ok=True)

    def _evict(self, part: Path, wanted: int, limit: int, what: str) -> None:
        if wanted > limit:
            raise DataError(
                f"{what} need {_gb(wanted)} of disk once decoded, and data.cache_gb allows {limit / 1e9:g} GB. "
                f"Set data.cache_gb to at least {_gb(wanted)}, or make data.image_size smaller."
            )
        folders = [path for path in self.root.glob("images-*") if path.is_dir() and path != part]
        sizes = {path: _size(path) for path in folders}
        for folder in sorted((path for path in folders if path.suffix == ""), key=_last_used):
            if sum(sizes.values()) + wanted <= limit:
                return
            with unheld(folder / "used") as unused:
                if unused:
                    log.info("removing %s, unused for longest, to keep to data.cache_gb", folder)
                    _discard(folder)
                    del sizes[folder]
        taken = sum(sizes.values())
        if taken + wanted > limit:
            raise DataError(
                f"{what} need {_gb(wanted)} of disk once decoded. data.cache_gb allows {limit / 1e9:g} GB, of which "
                f"{_gb(taken)} are in use by runs that have not ended. Wait for them, or set data.cache_gb to at least "
                f"{_gb(taken + wanted)}."
            )


class Building:
    """An entry while it is built."""

    def __init__(self, cache: DecodedCache, part: Path, what: str) -> None:
        self._cache, self._part, self._what = cache, part, what
        self._teller = Teller()
        self._written_s = 0.0

    @property
    def path(self) -> Path:
        """The file of the images."""
        return self._part / "images.npy"

    def images(self, shape: tuple[int, int, int, int]) -> Array:
        """A writable memory map for so many images, uint8 [n, H, W, C], whose disk is taken now.

        Raises DataError where it cannot be. Called again, it begins anew.
        """
        self.path.unlink(missing_ok=True)
        wanted = math.prod(shape)
        self._cache.make_room(self._part, wanted, self._what)
        try:
            images = np.lib.format.open_memmap(self.path, mode="w+", dtype=np.uint8, shape=shape)
            # Where the disk fills up later, writing to the map would kill the process (SIGBUS) without a message.
            with self.path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, images.offset + wanted)
        except OSError as error:
            raise DataError(
                f"{self._what} need {_gb(wanted)} of disk once decoded, and {self._cache.root} has no room for them: "
                f"{error.strerror}. Make room there, or set data.cache_dir to another disk."
            ) from error
        return images

    def drop(self, rows: Sequence[int]) -> None:
        """Take these images out again, the others move up."""
        images = np.load(self.path, mmap_mode="r+")
        kept = np.delete(np.arange(len(images)), rows)
        for start in range(0, len(kept), _BLOCK):
            moved = kept[start : start + _BLOCK]
            images[start : start + len(moved)] = images[moved]
        images.flush()
        shape = (len(kept), *images.shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with self.path.open("rb+") as file:
            # NumPy leaves room for the first axis to change its number of digits.
            np.lib.format.write_array_header_1_0(file, header)
            assert file.tell() == images.offset, "the new header is as long as the old one"
            file.truncate(images.offset + math.prod(shape))

    def progress(self, done: int, total: int) -> None:
        """So many are finished: for those who wait, and from time to time for who reads the terminal."""
        now = time.monotonic()
        if now - self._written_s >= 0.5:
            self._written_s = now
            (self._part / "progress").write_text(str(100 * done // total))
        self._teller.say(f"decoding {self._what} into {self._part.with_suffix('')} ({100 * done // total} %)")


class Teller:
    """Says how long work goes on: after one second, and then every ten."""

    def __init__(self) -> None:
        self._due_s = time.monotonic() + 1.0

    def say(self, text: str) -> None:
        """Log the text, if it is time again. As a warning: those are shown where nobody has set logging up."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + 10.0
            log.warning("%s", text)


def _waiting(folder: Path, what: str) -> Callable[[], None]:
    teller = Teller()

    def tell() -> None:
        progress = _beside(folder, ".part") / "progress"
        done = f" ({progress.read_text()} %)" if progress.is_file() else ""
        teller.say(f"waiting for another process that decodes {what} into {folder}{done}")

    return tell


def _open(folder: Path) -> tuple[Array, Index] | None:
    """The entry, held from now on, or None where there is none."""
    try:
        held = hold_shared(folder / "used")
    except FileNotFoundError:
        if folder.is_dir():
            raise _DamagedError("files are missing") from None
        return None
    return _load(folder, held)


def _load(folder: Path, held: int) -> tuple[Array, Index]:
    """The entry, whose lock `held` goes with its last array; raises _DamagedError."""
    try:
        written = json.loads((folder / "index.json").read_text())
        if hashlib.sha256(written["index"].encode()).hexdigest() != written["sha256"]:
            raise _DamagedError("the index has changed")
        images = np.load(folder / "images.npy", mmap_mode="r")
        if (folder / "images.npy").stat().st_size != images.offset + images.nbytes:
            raise _DamagedError("images.npy has another size than its header says")
        _touch(folder / "used")
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError) as error:
        os.close(held)
        raise _DamagedError(f"{type(error).__name__}: {error}") from error
    except BaseException:
        os.close(held)
        raise
    # The map lives as long as any view of it.
    weakref.finalize(images._mmap, os.close, held)
    return images, json.loads(written["index"])


def _touch(path: Path) -> None:
    # Somebody else's cache may be read-only for us, and its owner then decides what goes.
    with suppress(PermissionError):
        if time.time() - path.stat().st_mtime > _TOUCHED_EVERY_S:
            os.utime(path)


def _discard(folder: Path) -> None:
    """Remove an entry, at once for who looks for it. The folder's `lock` must be held."""
    gone = _beside(folder, ".gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes that an entry takes, or has reserved while it is built."""
    taken = sum(path.stat().st_size for path in folder.glob("images.npy"))
    reserved = folder / "reserved"
    return max(taken, int(reserved.read_text() or 0)) if folder.suffix and reserved.is_file() else taken


def _last_used(folder: Path) -> float:
    used = folder / "used"
    return (used if used.is_file() else folder).stat().st_mtime


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_suffix(suffix)


def _gb(count: int) -> str:
    return f"{max(count, 10_000_000) / 1e9:.2f} GB"

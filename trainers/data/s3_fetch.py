"""Objects on their way into files: many at a time, large ones in pieces that outlive a kill, each verified."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tuneyard.trainers.data.meter import Meter
from tuneyard.trainers.data.threads import work_through
from tuneyard.trainers.errors import DataError
from tuneyard.trainers.stores.s3_objects import S3Object, S3Objects
from tuneyard.trainers.stores.s3_verify import verify_file

PIECE_BYTES = 8 * 2**20
"""The largest object that comes in one piece, through memory; so much memory each of the threads takes."""

THREADS = 16
_TRIES = 3
_NOTE = 9  # bytes of a line of notes


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object, its name in the copy, and the file that it is to become."""

    name: str
    found: S3Object
    path: Path


Arrived = Callable[[Wanted, str], None]
"""Told, by one thread at a time, that a file has its name, and the SHA-256 of its bytes, hexadecimal."""


class Fetch:
    """Brings objects. A file gets its name when it is whole and verified; `scratch` holds what is not yet.

    Pieces of large objects that lie in `scratch` from a process that was killed are not fetched again.
    """

    def __init__(self, objects: S3Objects, scratch: Path, arrived: Arrived, meter: Meter) -> None:
        self._objects, self._scratch, self._arrived, self._meter = objects, scratch, arrived, meter
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._folders: set[Path] = set()

    def run(self, wanted: Sequence[Wanted]) -> None:
        """Bring all of these; the first error ends it, and is raised. Raises StoreError, DataError, OSError."""
        self._scratch.mkdir(exist_ok=True)
        work_through(self._jobs(wanted), THREADS, self._stop, self._meter.tick)

    def sweep(self, wanted: Sequence[Wanted]) -> None:
        """Remove pieces of what is not wanted any more."""
        large = {_part_name(one.found) for one in wanted if one.found.size_bytes > PIECE_BYTES}
        for path in self._scratch.iterdir() if self._scratch.is_dir() else ():
            if path.stem not in large:
                path.unlink()

    def _jobs(self, wanted: Iterable[Wanted]) -> Iterator[Callable[[], None]]:
        for one in wanted:
            if one.found.size_bytes <= PIECE_BYTES:
                yield partial(self._bring, one)
            else:
                pieces = _Pieces(self._scratch / _part_name(one.found), one.found.size_bytes)
                self._meter.add(pieces.done_bytes, 0, here=True)
                starts: list[int | None] = [*pieces.missing()]
                for start in starts or [None]:
                    yield partial(self._bring_piece, one, pieces, start)

    def _bring(self, one: Wanted) -> None:
        data = memoryview(bytearray(one.found.size_bytes))
        self._objects.read(one.found, 0, data, stop=self._stop, moved=self._moved)
        temporary = self._scratch / f"{threading.get_ident()}"
        temporary.write_bytes(data)
        self._name(temporary, one, hashlib.sha256(data).hexdigest())
        self._meter.add(0, 1)

    def _bring_piece(self, one: Wanted, pieces: "_Pieces", start: int | None) -> None:
        if start is not None:
            self._read_piece(one, pieces, start)
        if not pieces.finish():
            return
        for left in reversed(range(_TRIES)):
            if verify_file(self._objects, one.found, pieces.path):
                break
            if not left:
                raise self._objects.damaged(one.found, "their sums differ")
            pieces.begin_again()
            self._meter.add(-one.found.size_bytes, 0)
            for again in pieces.missing():
                self._read_piece(one, pieces, again)
        with pieces.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._name(pieces.path, one, digest)
        pieces.forget()
        self._meter.add(0, 1)

    def _read_piece(self, one: Wanted, pieces: "_Pieces", start: int) -> None:
        data = memoryview(bytearray(min(PIECE_BYTES, one.found.size_bytes - start)))
        self._objects.read(one.found, start, data, stop=self._stop, moved=self._moved)
        pieces.write(start, data)

    def _moved(self, count: int) -> None:
        self._meter.add(count, 0)

    def _name(self, temporary: Path, one: Wanted, digest: str) -> None:
        folder = one.path.parent
        try:
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            temporary.replace(one.path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise DataError(
                f"{one.found.key} cannot lie on a disk: a part of its key is an object itself, and would be file and"
                " folder at once. Rename one of the two."
            ) from error
        with self._lock:
            self._arrived(one, digest)


class _Pieces:
    """A large object while it comes: the file, and a list of the pieces in it that the disk has.

    The list's lines have one length, so that one which was cut off is known as such.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._size = path.with_suffix(".part"), size
        self._notes = path.with_suffix(".have")
        self._lock = threading.Lock()
        self._finished = False
        self._have: set[int] = self._read_notes()
        if not self._have:
            self.begin_again()

    @property
    def done_bytes(self) -> int:
        """Bytes that need not be fetched."""
        return sum(min(PIECE_BYTES, self._size - start) for start in self._have)

    def missing(self) -> list[int]:
        """Where the pieces begin that are not here."""
        return [start for start in range(0, self._size, PIECE_BYTES) if start not in self._have]

    def finish(self) -> bool:
        """Are all pieces here? True once: one thread alone sees to the rest."""
        with self._lock:
            finishes = not self._finished and len(self._have) * PIECE_BYTES >= self._size
            self._finished = self._finished or finishes
            return finishes

    def write(self, start: int, data: memoryview) -> None:
        """Put a piece into its place."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], start + written)
            # Before it is noted: after a power cut the notes would promise what is not there.
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock:
            self._have.add(start)
            with self._notes.open("a") as file:
                file.write(f"{start // PIECE_BYTES:08d}\n")

    def begin_again(self) -> None:
        """Take the disk for all of it, with nothing in it."""
        self._have = set()
        self._notes.unlink(missing_ok=True)
        with self.path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self._size)

    def forget(self) -> None:
        """It is a file of the copy now."""
        self._notes.unlink(missing_ok=True)

    def _read_notes(self) -> set[int]:
        if not self._notes.is_file() or not self.path.is_file() or self.path.stat().st_size != self._size:
            return set()
        text = self._notes.read_text()
        lines = [text[at : at + _NOTE] for at in range(0, len(text) - _NOTE + 1, _NOTE)]
        return {int(line) * PIECE_BYTES for line in lines}


def _part_name(found: S3Object) -> str:
    return hashlib.sha256(f"{found.key}\0{found.etag}\0{found.size_bytes}".encode()).hexdigest()[:32]

"""Which version of which object each file of a copy is: a line for each file, written when the file has its name."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tuneyard.trainers.stores.s3_objects import S3Object


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the copy: its object's ETag, its own length and time, and the SHA-256 of its bytes, hexadecimal."""

    etag: str
    size_bytes: int
    mtime_ns: int
    sha256: str


class Journal:
    """The lines of the file `path`; of several for one name the last counts. Open for writing inside of a `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._lines = 0
        self.entries: dict[str, Kept] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                self._lines += 1
                self._read(line)

    def __enter__(self) -> Self:
        # On a line of its own, also after one that a kill cut off.
        cut_off = self._path.is_file() and not self._path.read_bytes().endswith(b"\n")
        self._file = self._path.open("a")
        self._file.write("\n" if cut_off else "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, name: str, file: Path, etag: str, sha256: str) -> None:
        """Note that `file`, of that digest, is this version of the object `name`."""
        assert self._file is not None, "open for writing"
        facts = file.stat()
        kept = Kept(etag, facts.st_size, facts.st_mtime_ns, sha256)
        self.entries[name] = kept
        self._file.write(_line(name, kept))
        self._file.flush()
        self._lines += 1

    def is_current(self, name: str, file: Path, found: S3Object) -> bool:
        """Is the file there, as it was written, and of the version that the bucket has now?"""
        kept = self.entries.get(name)
        if kept is None or kept.etag != found.etag:
            return False
        try:
            facts = file.stat()
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns) == (kept.size_bytes, kept.mtime_ns)

    def is_whole(self, name: str, file: Path) -> bool:
        """Are the file's bytes still the ones that arrived?"""
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == self.entries[name].sha256

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all others; the file is written anew, in one step, if it has lines that do not count any more."""
        self.entries = {name: self.entries[name] for name in names if name in self.entries}
        if self._lines == len(self.entries):
            return
        anew = self._path.with_suffix(".new")
        anew.write_text("".join(_line(name, kept) for name, kept in self.entries.items()))
        anew.replace(self._path)
        self._lines = len(self.entries)

    def _read(self, line: str) -> None:
        try:
            name, etag, size, mtime_ns, sha256 = json.loads(line)
        except ValueError:
            return  # cut off by a kill: that object is brought again
        self.entries[name] = Kept(etag, size, mtime_ns, sha256)


def _line(name: str, kept: Kept) -> str:
    return json.dumps([name, kept.etag, kept.size_bytes, kept.mtime_ns, kept.sha256]) + "\n"

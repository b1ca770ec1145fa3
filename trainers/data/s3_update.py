"""One comparison of a copy with the bucket, and all that follows from it."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tuneyard.trainers.data.decoded_cache import Teller
from tuneyard.trainers.data.file_locks import unheld
from tuneyard.trainers.data.meter import Meter, amount
from tuneyard.trainers.data.s3_fetch import THREADS, Fetch, Wanted
from tuneyard.trainers.data.s3_journal import Journal
from tuneyard.trainers.data.s3_listing import list_all
from tuneyard.trainers.data.threads import work_through
from tuneyard.trainers.errors import DataError
from tuneyard.trainers.stores.s3_objects import ReplacedError, S3Object, S3Objects

There = Mapping[str, S3Object]
Stage = Callable[[There, Path], Sequence[str]]
"""From what lies in the bucket, by its name in the copy, and the folder of the files: the names that are wanted. A
later stage may look into the files of the one before."""

Unpack = Callable[[Path, Path], None]
"""Writes what an archive (first) holds into an empty folder (second)."""

PROGRESS = "progress"
_LISTINGS = 3
_LOOK_AGAIN_S = 0.05
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Scope:
    """Objects whose keys begin with `listed`; their names in the copy begin behind `prefix`. `uri` is for messages."""

    uri: str
    prefix: str
    listed: str


@dataclass(frozen=True, slots=True)
class Whole:
    """When a copy was last found whole, in seconds since 1970; and how many files and bytes an archive left."""

    since_s: float = 0.0
    tree_files: int = 0
    tree_bytes: int = 0


class Update:
    """Brings what is missing or has changed, and removes what has gone. `whole`: what the copy is so far."""

    def __init__(
        self, folder: Path, scope: Scope, objects: S3Objects, whole: Whole | None, unpack: Unpack | None
    ) -> None:
        self._folder, self._scope, self._objects, self._whole, self._unpack = folder, scope, objects, whole, unpack
        self._files, self._tree = folder / "files", folder / "tree"
        self._journal = Journal(folder / "journal.jsonl")
        self._wanted: dict[str, Wanted] = {}
        self._sure: set[str] = set()  # names of files that were written or read through by this process
        self._begun = False

    def run(self, stages: Sequence[Stage]) -> None:
        """Raises StoreError, DataError, OSError."""
        with ExitStack() as changing:
            for left in reversed(range(_LISTINGS)):
                try:
                    self._run_once(stages, changing)
                    break
                except ReplacedError as error:
                    if not left:
                        raise DataError(
                            f"{self._scope.uri} changes while it is brought: {error} Wait until it is complete."
                        ) from error

    def _run_once(self, stages: Sequence[Stage], changing: ExitStack) -> None:
        there = self._list()
        self._wanted = {}
        for stage in stages:
            last = stage is stages[-1]
            for name in stage(there, self._files):
                self._wanted[name] = Wanted(name, there[name], _path(self._files, name))
            stale = self._stale()
            gone = last and self._journal.entries.keys() - self._wanted.keys()
            if stale or gone or self._whole is None:
                self._begin(changing)
            if self._begun and last:
                self._clean()
            if stale:
                self._fetch(stale, last=last)
        self._end()

    def _list(self) -> dict[str, S3Object]:
        teller = Teller()

        def tell(count: int) -> None:
            teller.say(f"listing {self._scope.uri}: {count:,} objects so far")

        found = list_all(self._objects, self._scope.listed, tell)
        return {one.key.removeprefix(self._scope.prefix): one for one in sorted(found, key=lambda one: one.key)}

    def _stale(self) -> list[Wanted]:
        """What is wanted and not here, or not in the version that the bucket has."""
        if self._unpack and self._whole is not None and not self._begun:
            return [] if self._tree_is_whole(self._whole) else list(self._wanted.values())
        stale, unsure = [], []
        for one in self._wanted.values():
            if not self._journal.is_current(one.name, one.path, one.found):
                stale.append(one)
            elif self._whole is None and one.name not in self._sure:
                # Whoever was at it was killed, perhaps with the whole machine: it is read once more.
                unsure.append(one)
        return stale + self._damaged(unsure) if unsure else stale

    def _tree_is_whole(self, whole: Whole) -> bool:
        (archive,) = self._wanted.values()
        kept = self._journal.entries.get(archive.name)
        same = kept is not None and kept.etag == archive.found.etag
        return same and measure(self._tree) == (whole.tree_files, whole.tree_bytes)

    def _damaged(self, current: Sequence[Wanted]) -> list[Wanted]:
        total = sum(one.found.size_bytes for one in current)
        meter = Meter(f"checking what is here of {self._scope.uri}", total, len(current), self._folder / PROGRESS)
        damaged: list[Wanted] = []

        def check(one: Wanted) -> None:
            if self._journal.is_whole(one.name, one.path):
                self._sure.add(one.name)
            else:
                damaged.append(one)
            meter.add(one.found.size_bytes, 1)

        jobs: Iterator[Callable[[], None]] = (lambda one=one: check(one) for one in current)  # type: ignore[misc]
        work_through(jobs, THREADS, threading.Event(), meter.tick)
        meter.end()
        return damaged

    def _begin(self, changing: ExitStack) -> None:
        """From here on the copy is not whole. Waits until nobody reads it."""
        if self._begun:
            return
        teller = Teller()
        while not self._begun:
            with ExitStack() as alone:
                if alone.enter_context(unheld(self._folder / "used")):
                    changing.push(alone.pop_all())
                    self._begun = True
                    break
            teller.say(f"waiting for processes that read {self._folder}, before it is brought up to date")
            time.sleep(_LOOK_AGAIN_S)
        (self._folder / "whole").unlink(missing_ok=True)
        self._files.mkdir(exist_ok=True)

    def _clean(self) -> None:
        """Remove the files that are not wanted, also those that nobody knows of, and the folders left empty."""
        wanted = {one.path for one in self._wanted.values()}
        for place, _, names in os.walk(self._files, topdown=False):
            folder = Path(place)
            left = [name for name in names if folder / name in wanted]
            for name in set(names).difference(left):
                (folder / name).unlink()
            if not left and folder != self._files and not any(folder.iterdir()):
                folder.rmdir()

    def _fetch(self, stale: Sequence[Wanted], *, last: bool) -> None:
        self._check_room(stale)
        total = sum(one.found.size_bytes for one in stale)
        meter = Meter(f"bringing {self._scope.uri}", total, len(stale), self._folder / PROGRESS)
        with self._journal as journal:

            def arrived(one: Wanted, sha256: str) -> None:
                journal.add(one.name, one.path, one.found.etag, sha256)
                self._sure.add(one.name)

            fetch = Fetch(self._objects, self._folder / "scratch", arrived, meter)
            if last:
                fetch.sweep(stale)
            fetch.run(stale)
        meter.end()

    def _check_room(self, stale: Sequence[Wanted]) -> None:
        scratch = self._folder / "scratch"
        here = sum(path.stat().st_blocks * 512 for path in scratch.iterdir()) if scratch.is_dir() else 0
        needed = sum(-(-one.found.size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES for one in stale) - here
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DataError(
                f"{self._scope.uri} needs {amount(needed)} more on the disk of {self._folder}, which has {amount(free)}"
                " free. Make room there, or set data.cache_dir to another disk."
            )
        facts = os.statvfs(self._folder)
        if facts.f_files and facts.f_favail < len(stale):
            raise DataError(
                f"{self._scope.uri} has {len(stale):,} more objects, and the file system of {self._folder} takes only"
                f" {facts.f_favail:,} more files. Set data.cache_dir to another disk, or pack them in an archive."
            )

    def _end(self) -> None:
        """The copy is whole."""
        whole = Whole() if self._unpack is None else self._unpacked(self._unpack)
        if self._begun:
            self._journal.keep_only(self._wanted)
            # A machine that goes down must not find a copy that is whole by name alone.
            os.sync()
        anew = self._folder / "whole.new"
        anew.write_text(json.dumps(asdict(replace(whole, since_s=time.time()))))
        anew.replace(self._folder / "whole")
        if self._unpack:
            for one in self._wanted.values():
                one.path.unlink(missing_ok=True)

    def _unpacked(self, unpack: Unpack) -> Whole:
        if not self._begun:
            assert self._whole is not None, "else it had begun"
            return self._whole
        part = self._folder / "tree.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        (archive,) = self._wanted.values()
        try:
            unpack(archive.path, part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(self._tree, ignore_errors=True)
        part.rename(self._tree)
        return Whole(0.0, *measure(self._tree))


def measure(folder: Path) -> tuple[int, int]:
    """How many files lie below the folder, and their bytes."""
    sizes = [(Path(place) / name).stat().st_size for place, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


def _path(files: Path, name: str) -> Path:
    """Where the object of that name goes; DataError for a name that would lie elsewhere, or nowhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise DataError(
            f"The object {name!r} cannot lie on a disk: a part of its key, between slashes, is empty, '.' or '..', or"
            " longer than 255 bytes. Rename it in the bucket."
        )
    return files.joinpath(*parts)

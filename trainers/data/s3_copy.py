"""A copy of a part of a bucket, on this machine's disk: brought once, by whoever comes first, and kept up to date.

The folder NAME holds

    files/         the objects, each file under its name only when it is whole and verified
    tree/          what an archive among them holds, where the copy is of an archive; the archive itself goes then
    journal.jsonl  which version of which object each file is
    whole          there only while the copy is: when it was last found so
    scratch/       what is on its way
    used           held, shared, by who reads the copy

and beside it lies NAME.lock, held by who compares it with the bucket. Nothing is changed before all readers have let
`used` go.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tuneyard.trainers.data.decoded_cache import Teller
from tuneyard.trainers.data.file_locks import exclusive, hold_shared
from tuneyard.trainers.data.s3_update import PROGRESS, Scope, Stage, Unpack, Update, Whole
from tuneyard.trainers.errors import DataError, StoreError
from tuneyard.trainers.stores.s3_objects import S3Objects


class S3Copy:
    """The copy of `scope` in `folder`, of the objects that `stages` want.

    With `unpack` they want one archive, and what is handed out is its content.
    """

    def __init__(self, folder: Path, scope: Scope, stages: Sequence[Stage], *, unpack: Unpack | None = None) -> None:
        self._folder, self._scope, self._stages, self._unpack = folder, scope, stages, unpack

    @contextmanager
    def held(self, objects: S3Objects) -> Iterator[Path]:
        """The folder of the copy, brought or brought up to date now; nobody changes it before the block ends.

        Of several processes one compares it with the bucket, and the others wait and are told. Raises StoreError where
        the bucket cannot be read, DataError where the copy cannot be made or has no room.
        """
        asked_s = time.time()
        with self._disk_faults():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "used").touch()
            with exclusive(self._folder.with_name(f"{self._folder.name}.lock"), self._waiting):
                whole = self._whole()
                # What was brought while we waited is new enough, and the same for all who waited.
                if whole is None or whole.since_s < asked_s:
                    self._update(objects, whole)
                handle = hold_shared(self._folder / "used")
        with self._handed_out(handle) as folder:
            yield folder

    @contextmanager
    def held_as_it_is(self) -> Iterator[Path]:
        """The same without a look at the bucket; DataError where the copy is not whole."""
        with self._disk_faults():
            try:
                handle = hold_shared(self._folder / "used")
            except FileNotFoundError:
                raise self._not_whole() from None
            if self._whole() is None:
                os.close(handle)
                raise self._not_whole()
        with self._handed_out(handle) as folder:
            yield folder

    @contextmanager
    def _handed_out(self, handle: int) -> Iterator[Path]:
        try:
            yield self._folder / ("files" if self._unpack is None else "tree")
        finally:
            os.close(handle)

    def _update(self, objects: S3Objects, whole: Whole | None) -> None:
        try:
            Update(self._folder, self._scope, objects, whole, self._unpack).run(self._stages)
        except StoreError as error:
            if whole is None or self._whole() is None:
                if (self._folder / "files").is_dir():
                    raise StoreError(f"{error} What was brought stays: the next start goes on from there.") from error
                raise
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(whole.since_s))
            raise StoreError(
                f"{error} The copy of {when} is whole: with data.download: false it is used, and nobody is asked."
            ) from error

    def _whole(self) -> Whole | None:
        try:
            return Whole(**json.loads((self._folder / "whole").read_text()))
        except FileNotFoundError:
            return None

    def _not_whole(self) -> DataError:
        return DataError(
            f"{self._scope.uri} was not brought to this machine as a whole, and data.download is false. Set it to true."
        )

    def _waiting(self) -> Callable[[], None]:
        teller = Teller()

        def tell() -> None:
            try:
                done = f" ({(self._folder / PROGRESS).read_text()})"
            except FileNotFoundError:
                done = ""
            teller.say(f"waiting for another process that brings {self._scope.uri} to {self._folder}{done}")

        return tell

    @contextmanager
    def _disk_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{self._scope.uri} has no room on the disk of {self._folder}: {error.strerror}. What is there"
                    " stays, and the next start goes on from it. Make room, or set data.cache_dir to another disk."
                ) from error
            raise DataError(
                f"{self._scope.uri} cannot be kept in {self._folder}: {error}. Set data.cache_dir to another folder."
            ) from error

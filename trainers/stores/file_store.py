"""A store in a folder: whole files or none, also after a crash."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.store import TEMPORARY_PREFIX, Bytes, check_digest, check_key, too_short

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or keep fewer checkpoints (checkpoint.keep_last, keep_best)",
    errno.EDQUOT: "your disk quota is used up: free some space, or keep fewer checkpoints",
    errno.EACCES: "this user may not do that: change the folder's permissions, or choose another folder",
    errno.EPERM: "the file system refuses it: choose a folder on a local disk",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file and not a folder: choose another folder",
    errno.EISDIR: "there is a folder where a file should be: choose another folder",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter folder, or a shorter name for the experiment",
    errno.EIO: "the disk reports a fault: check it (dmesg), and copy what can still be read",
}

_WRITE_ATTEMPTS = 5
"""A folder that `delete` found empty may vanish under a writer; it is made again, this many times."""


class FileStore:
    """Keys are files under one folder. The folder is made by the first write.

    A write goes to a temporary file beside its goal, is flushed to the disk, and then gets its name in one step. A
    writer that is killed leaves at most a temporary file, which is no key. There is no far end that could compare a
    digest with what arrived, so that one which is given is not looked at; whoever reads compares.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def uri(self) -> str:
        """`file:///…`"""
        return self._root.as_uri()

    def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
        """Write `data`, replacing what was there."""
        check_digest(sha256)
        with self._faults("write", key), self._written(self._path(key), data) as (temporary, path):
            temporary.replace(path)

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        """Write `data` only if `key` does not exist; False, and nothing written, where it does."""
        check_digest(sha256)
        path = self._path(key)
        if self.exists(key):  # the common "no", without writing the bytes first
            return False
        with self._faults("write", key), self._written(path, data) as (temporary, _):
            try:
                # A link fails where the name is taken; a rename would replace it.
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
        return True

    def get(self, key: str) -> bytes:
        """The bytes at `key`; raises `MissingKeyError` where there are none."""
        path = self._path(key)
        with self._reading(key):
            return path.read_bytes()

    def read_into(self, key: str, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes at `key` from `start` on."""
        path = self._path(key)
        rest = out.cast("B")
        with self._reading(key), path.open("rb", buffering=0) as file:
            file.seek(start)
            while rest:  # one read call takes at most 2 GiB
                count = file.readinto(rest)
                if not count:
                    raise too_short(f"{self.uri}/{key}", start, out)
                rest = rest[count:]

    def size(self, key: str) -> int:
        """The number of bytes at `key`."""
        path = self._path(key)
        with self._reading(key):
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return found.st_size

    def exists(self, key: str) -> bool:
        """Is there something at `key`?"""
        with self._faults("read", key):
            return self._path(key).is_file()

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        folder = self._root / prefix.rpartition("/")[0]
        if ".." in prefix.split("/") or prefix.startswith("/"):
            raise StoreError(f"store: {prefix!r} leaves the store. Allowed: a prefix of its keys, such as 'run-1/'.")
        with self._faults("list", prefix):
            found = [
                (Path(place) / name).relative_to(self._root).as_posix()
                for place, _, names in os.walk(folder, onerror=_ignore_vanished)
                for name in names
                if not name.startswith(TEMPORARY_PREFIX)
            ]
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Remove `key`; no error where it is not there. A folder that it leaves empty goes too."""
        path = self._path(key)
        with self._faults("delete", key):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or not _remove_if_empty(folder):
                    break

    def check(self) -> None:
        """Make the folder and try a write, since the checkpoints to come depend on it."""
        key = f"check-{secrets.token_hex(8)}"
        self.put(key, b"ok")
        self.delete(key)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _written(self, path: Path, data: Bytes) -> Iterator[tuple[Path, Path]]:
        """Write `data` to a temporary file beside `path`; the caller then gives it its name."""
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            _write_through(temporary, data)
            yield temporary, path
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        with self._faults("read", key):
            try:
                yield
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise MissingKeyError(f"{self.uri}/{key}: there is nothing under this key.") from error

    @contextmanager
    def _faults(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "see that the disk is there and in order")
            raise StoreError(f"{self.uri}: could not {verb} {key!r} ({error.strerror or error}); {advice}.") from error


def _write_through(path: Path, data: Bytes) -> None:
    """Write `data` and wait until the disk has it; makes the folders that are missing."""
    for attempt in range(_WRITE_ATTEMPTS):
        try:
            _make_folder(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            break
        except FileNotFoundError:
            if attempt == _WRITE_ATTEMPTS - 1:
                raise
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data).cast("B")
        while rest:  # one write() call takes at most 2 GiB
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in `folder` durable: flushing a file does not flush its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _ignore_vanished(error: OSError) -> None:
    """A folder may vanish while it is walked; every other fault counts."""
    if not isinstance(error, FileNotFoundError):
        raise error

"""What an archive holds, written into a folder: plain files and folders, and nothing that would lie outside."""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tuneyard.trainers.data.decoded_cache import Teller
from tuneyard.trainers.data.meter import amount
from tuneyard.trainers.errors import DataError

_BLOCK_BYTES = 2**20
_FOREIGN = "__MACOSX"
"""A folder of resource forks that macOS puts beside what was packed."""


def unpack(archive: Path, folder: Path, what: str) -> None:
    """Write the files of the zip or tar `archive` into the empty `folder`; `what` is its address, for messages.

    Raises DataError for an archive that is damaged, too large for the disk, or holds what could lead out of the
    folder: absolute names, `..`, links, devices. Then `folder` holds a part, and is to be thrown away.
    """
    try:
        # By its name: a tar may hold a zip, and would be taken for one.
        if archive.suffix.lower() == ".zip":
            _unpack_zip(archive, folder, what)
        else:
            _unpack_tar(archive, folder, what)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise _damaged(what, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(what, error) from error  # so gzip and bz2 say that their bytes are wrong


def _unpack_zip(archive: Path, folder: Path, what: str) -> None:
    teller = Teller()
    with zipfile.ZipFile(archive) as opened:
        members = [one for one in opened.infolist() if not one.is_dir()]
        _check_room(sum(one.file_size for one in members), folder, what)
        for number, one in enumerate(members):
            if one.flag_bits & 1:
                raise DataError(f"{what} is locked with a password. Pack it anew without one.")
            kind = stat.S_IFMT(one.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refusal(what, one.filename, "is a link or a device")
            path = _inside(folder, one.filename, what)
            if path is not None:
                with opened.open(one) as source:
                    _write(source, path)
            teller.say(f"unpacking {what}: {number:,} of {len(members):,} files")


def _unpack_tar(archive: Path, folder: Path, what: str) -> None:
    teller = Teller()
    with tarfile.open(archive) as opened:
        for number, one in enumerate(_members(opened)):
            if one.isdir():
                continue
            if not one.isreg():
                raise _refusal(what, one.name, "is a link or a device")
            path = _inside(folder, one.name, what)
            source = opened.extractfile(one)
            if path is not None and source is not None:
                # The sizes of a tar's members are only known as it is read.
                _check_room(one.size, folder, what)
                _write(source, path)
            teller.say(f"unpacking {what}: {number:,} files so far")


def _members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other: a list of all of a compressed tar would take a reading of its own."""
    while (one := opened.next()) is not None:
        yield one


def _inside(folder: Path, name: str, what: str) -> Path | None:
    """Where the member goes; None where nobody wants it. DataError where it would not lie in the folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or not parts:
        raise _refusal(what, name, "would lie outside of the archive's folder")
    return None if parts[0] == _FOREIGN else folder.joinpath(*parts)


def _write(source: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Also where a name comes twice, the later one counts: as with tar and unzip.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as goal:
        shutil.copyfileobj(source, goal, _BLOCK_BYTES)


def _check_room(needed: int, folder: Path, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{what} needs {amount(needed)} on the disk of {folder} when it is unpacked, which has {amount(free)} free."
            " Make room there, or set data.cache_dir to another disk."
        )


def _damaged(what: str, error: Exception) -> DataError:
    return DataError(f"{what} cannot be unpacked ({error}). Pack it anew, as a plain zip or tar.")


def _refusal(what: str, name: str, why: str) -> DataError:
    return DataError(
        f"{what} is not unpacked: its member {name!r} {why}. Pack it anew from its own folder, without links (tar:"
        " --dereference --hard-dereference)."
    )

"""Unpacking: what comes out, and what is refused."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneyard.trainers.data.archives import unpack
from tuneyard.trainers.errors import DataError

FILES = {"a/1.png": b"one", "a/b/2.png": b"two" * 999, "3.png": b""}


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("empty/", "")
        for name, data in files.items():
            made.writestr(name, data)


def make_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))


Maker = Callable[[Path, dict[str, bytes]], None]
MAKERS: dict[str, Maker] = {"x.zip": make_zip, "x.tar": make_tar, "x.tar.gz": make_tar}


def unpacked(path: Path) -> dict[str, bytes]:
    folder = path.parent / "out"
    folder.mkdir()
    unpack(path, folder, "s3://b/x")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", MAKERS)
def test_every_file_comes_out(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, FILES)
    assert unpacked(tmp_path / name) == FILES


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_what_macos_adds_is_left_out(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, {"__MACOSX/a/._1.png": b"fork", "./a/1.png": b"one"})
    assert unpacked(tmp_path / name) == {"a/1.png": b"one"}


@pytest.mark.parametrize("member", ["/etc/x", "../x", "a/../../x", "a\\..\\x"])
@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_nothing_is_written_outside(name: str, member: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, {member: b"evil"})
    with pytest.raises(DataError, match=r"would lie outside of the archive's folder\. Pack it anew"):
        unpacked(tmp_path / name)
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_links_or_devices_is_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as made:
        member = tarfile.TarInfo("a/link")
        member.type, member.linkname = kind, "/etc"
        made.addfile(member)
    with pytest.raises(DataError, match=r"member 'a/link' is a link or a device.*--dereference"):
        unpacked(tmp_path / "x.tar")


def test_a_zip_with_links_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        member = zipfile.ZipInfo("a/link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(member, "/etc")
    with pytest.raises(DataError, match="member 'a/link' is a link"):
        unpacked(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_damaged_archive_says_what_to_do(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name, {"a.bin": bytes(range(256)) * 400})
    data = (tmp_path / name).read_bytes()
    # A plain tar has no sums; that its end is missing is all that can be known of it.
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"(?s)s3://b/x cannot be unpacked \(.*\)\. Pack it anew"):
        unpacked(tmp_path / name)


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_room_is_looked_for_before_it_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS[name](tmp_path / name, FILES)
    usage: Any = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs \d\.\d\d kB on the disk of .* has 1\.00 kB free.*data\.cache_dir"):
        unpacked(tmp_path / name)

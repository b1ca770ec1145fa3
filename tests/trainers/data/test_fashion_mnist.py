"""Fashion-MNIST: where it is looked for, and that only the published bytes are taken."""

import gzip
import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data import fashion_mnist
from tuneyard.trainers.errors import DataError


def nowhere_but(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "_folders", lambda config: [folder])


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "BASE_URL", folder.as_uri() + "/")


def test_a_file_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere_but(monkeypatch, tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16)))
    with pytest.raises(DataError, match=r"train-images.*SHA-256 differs. Delete it"):
        fashion_mnist.load_fashion_mnist(DataConfig(source="fashion-mnist"), tmp_path, "")


def test_a_download_with_other_bytes_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    (served / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16)))
    nowhere_but(monkeypatch, cache)
    serve(monkeypatch, served)
    with pytest.raises(DataError, match=r"SHA-256 differs. Try again later"):
        fashion_mnist.load_fashion_mnist(DataConfig(source="fashion-mnist"), tmp_path, "")
    assert not cache.exists()


def test_a_download_is_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, served, cache = "t10k-labels-idx1-ubyte", tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    packed = gzip.compress(bytes(8) + bytes([3, 1, 2]))
    (served / f"{name}.gz").write_bytes(packed)
    nowhere_but(monkeypatch, cache)
    serve(monkeypatch, served)
    monkeypatch.setitem(fashion_mnist.SHA256, name, hashlib.sha256(gzip.decompress(packed)).hexdigest())
    assert fashion_mnist._read(DataConfig(source="fashion-mnist"), name).tolist() == [3, 1, 2]
    assert [path.name for path in cache.iterdir()] == [f"{name}.gz"]
    (served / f"{name}.gz").unlink()
    assert fashion_mnist._read(DataConfig(source="fashion-mnist"), name).tolist() == [3, 1, 2]


def test_without_network_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise URLError("no route to host")

    nowhere_but(monkeypatch, tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"no route to host.*dataset-fashion-mnist"):
        fashion_mnist.load_fashion_mnist(DataConfig(source="fashion-mnist"), tmp_path, "")


def test_no_download_where_it_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere_but(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"data.download is false.*dataset-fashion-mnist"):
        fashion_mnist.load_fashion_mnist(DataConfig(source="fashion-mnist", download=False), tmp_path, "")


def test_the_whole_set(tmp_path: Path) -> None:
    if not any(
        (folder / "train-images-idx3-ubyte.gz").is_file()
        for folder in fashion_mnist._folders(DataConfig(source="fashion-mnist"))
    ):
        pytest.fail("Fashion-MNIST is not on this machine: install Debian's package dataset-fashion-mnist")
    source = fashion_mnist.load_fashion_mnist(DataConfig(source="fashion-mnist"), tmp_path, "")
    assert source.pool.labels[:3].tolist() == [9, 0, 0]
    assert source.test is not None
    assert len(source.pool.labels) == 60_000
    assert len(source.test.labels) == 10_000

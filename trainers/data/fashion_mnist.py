"""Fashion-MNIST (Xiao, Rasul, Vollgraf: arXiv 1708.07747): found on this machine or downloaded, and verified."""

import hashlib
import os
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.image_files import cache_root
from tuneyard.trainers.data.sources import ArraySet, Source, numbered
from tuneyard.trainers.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

BASE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# SHA-256 of the unpacked files: Debian packs the same bytes again, under another gzip header.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
COUNTS = {"train": 60_000, "t10k": 10_000}
_HEADER_BYTES = {"images-idx3": 16, "labels-idx1": 8}
_TIMEOUT_S = 30


def load_fashion_mnist(config: DataConfig, project_dir: Path, rest: str) -> Source:
    """60,000 images of 28x28 as the pool, 10,000 as the test set, ten kinds of clothes."""
    if config.classes is not None and tuple(config.classes) != CLASSES:
        raise DataError(f"data.classes: fashion-mnist has its own classes. Leave it out, or give {', '.join(CLASSES)}.")
    return Source(_read_set(config, "train"), _read_set(config, "t10k"), CLASSES)


def _read_set(config: DataConfig, part: str) -> ArraySet:
    count = COUNTS[part]
    images = _read(config, f"{part}-images-idx3-ubyte").reshape(count, 28, 28)
    labels = _read(config, f"{part}-labels-idx1-ubyte").astype(np.int64)
    return ArraySet(images, labels, numbered("train" if part == "train" else "test", count))


def _folders(config: DataConfig) -> list[Path]:
    prefixes = dict.fromkeys((Path("/usr"), Path("/usr/local"), Path(sys.prefix)))
    return [*(prefix / "share/datasets/fashion-mnist" for prefix in prefixes), cache_root(config) / "fashion-mnist"]


def _read(config: DataConfig, name: str) -> Array:
    """The values of one idx file, uint8 [all], read-only."""
    for folder in _folders(config):
        path = folder / f"{name}.gz"
        if path.is_file():
            packed = _read_file(path)
            return _values(_unpack(packed, name, str(path), "Delete it, or install it again."), name)
    if not config.download:
        raise DataError(f"{name}.gz was not found, and data.download is false. {_what_to_do(config)}")
    return _values(_download(config, name), name)


def _values(unpacked: bytes, name: str) -> Array:
    header = next(size for kind, size in _HEADER_BYTES.items() if kind in name)
    return np.frombuffer(unpacked, dtype=np.uint8, offset=header)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file's permissions.") from error


def _unpack(packed: bytes, name: str, where: str, advice: str) -> bytes:
    """The unpacked bytes; DataError where they are not the ones that were published."""
    try:
        unpacked = zlib.decompress(packed, wbits=31, bufsize=48_000_000 if "train-images" in name else 8_000_000)
    except zlib.error as error:
        raise DataError(f"{where} is damaged ({error}). {advice}") from error
    if hashlib.sha256(unpacked).hexdigest() != SHA256[name]:
        raise DataError(f"{where} is not the published file: its SHA-256 differs. {advice}")
    return unpacked


def _download(config: DataConfig, name: str) -> bytes:
    url = f"{BASE_URL}{name}.gz"
    folder = _folders(config)[-1]
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - begins with BASE_URL
            packed: bytes = reply.read()
    except (OSError, urllib.error.URLError) as error:
        raise DataError(f"{url} cannot be downloaded: {error}. {_what_to_do(config)}") from error
    unpacked = _unpack(packed, name, url, f"Try again later. {_what_to_do(config)}")
    # Kept only now that the digest fits, and under its name only when whole.
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.gz.{os.getpid()}.part"
    part.write_bytes(packed)
    part.replace(folder / f"{name}.gz")
    return unpacked


def _what_to_do(config: DataConfig) -> str:
    return (
        "Install Debian's package dataset-fashion-mnist, or put the four .gz files "
        f"from {BASE_URL} into {_folders(config)[-1]}."
    )

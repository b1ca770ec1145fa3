"""Loading a whole data set: sizes, channels, the fingerprint, and what was skipped."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.dataset import ImageData, Samples, load_data
from tuneyard.trainers.errors import ConfigError, DataError


def load_arrays(tmp_path: Path, given: int | None = None, **changes: Any) -> ImageData:
    shape = (6, 8, 8) if given is None else (6, 8, 8, given)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(6) % 2)
    options: dict[str, Any] = {"source": "npz:a.npz", "image_size": 8} | changes
    return load_data(DataConfig(**options), tmp_path)


@pytest.mark.parametrize(
    ("given", "asked", "expected"), [(None, "auto", 1), (None, 3, 3), (3, "auto", 3), (3, 1, 1), (5, "auto", 5)]
)
def test_channels_of_arrays(tmp_path: Path, given: int | None, asked: Any, expected: int) -> None:
    assert load_arrays(tmp_path, given, channels=asked).channels == expected


def test_channels_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.channels is 3, but npz:a\.npz has 5"):
        load_arrays(tmp_path, 5, channels=3)


@pytest.mark.parametrize("size", [4, 12])
def test_arrays_are_resized(tmp_path: Path, size: int) -> None:
    data = load_arrays(tmp_path, 3, image_size=size)
    assert data.pool.images.shape == (6, size, size, 3)
    assert data.image_size == size


def test_samples_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 images, but 3 labels"):
        Samples(np.zeros((2, 1, 1, 1), dtype=np.uint8), np.zeros(3, dtype=np.int64), ["a", "b"])


def test_a_class_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No training samples of class c"):
        load_arrays(tmp_path, classes=["a", "b", "c"])


def write_folder(root: Path) -> None:
    for position, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), np.full((8, 8), 40 * position, dtype=np.uint8))


def load_folder(tmp_path: Path, name: str = "data", **changes: Any) -> ImageData:
    options: dict[str, Any] = {
        "source": f"folder:{name}",
        "image_size": 8,
        "cache_dir": str(tmp_path / "cache"),
    } | changes
    return load_data(DataConfig(**options), tmp_path)


def test_the_fingerprint_is_of_content_labels_and_size(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    write_folder(tmp_path / "moved")
    first = load_folder(tmp_path).fingerprint
    assert load_folder(tmp_path, "moved").fingerprint == first
    assert load_folder(tmp_path, image_size=9).fingerprint != first
    (tmp_path / "moved" / "cat" / "b.png").rename(tmp_path / "moved" / "dog" / "b.png")
    assert load_folder(tmp_path, "moved").fingerprint != first


def test_the_fingerprint_of_arrays_sees_one_pixel(tmp_path: Path) -> None:
    prints = []
    for value in (0, 1):
        images = np.zeros((4, 8, 8), dtype=np.uint8)
        images[3, 7, 7] = value
        np.savez(tmp_path / "a.npz", x=images, y=np.arange(4) % 2)
        prints.append(load_data(DataConfig(source="npz:a.npz", image_size=8), tmp_path).fingerprint)
    assert prints[0] != prints[1]


def test_skipped_images_are_counted_and_everything_stays_in_step(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "cat" / "a.png").write_bytes(b"")
    data = load_folder(tmp_path, on_error="skip")
    assert [(Path(skip.path).name, skip.reason) for skip in data.skipped] == [("a.png", "the file is empty")]
    assert [Path(name).name for name in data.pool.names] == ["b.png", "c.png", "d.png"]
    assert data.pool.labels.tolist() == [0, 1, 1]
    assert data.pool.images[:, 0, 0, 0].tolist() == [40, 80, 120]


def test_a_class_that_skipping_has_emptied_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / "cat" / name).write_bytes(b"")
    with pytest.raises(DataError, match="after 2 images were skipped of class cat"):
        load_folder(tmp_path, on_error="skip")


def test_image_files_have_one_or_three_channels(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"data\.channels is 2"):
        load_folder(tmp_path, channels=2)

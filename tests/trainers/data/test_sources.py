"""The table of sources, digits, npz files and the user's own function."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneyard.trainers.config.data import DataConfig, ValidationConfig
from tuneyard.trainers.data.dataset import load_data
from tuneyard.trainers.data.sources import load_source
from tuneyard.trainers.errors import ConfigError, DataError


def config(source: str, **changes: Any) -> DataConfig:
    return DataConfig(source=source, image_size=8, **changes)


def arrays(n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    images = np.arange(n * 64, dtype=np.uint8).reshape(n, 8, 8)
    return images, np.arange(n) % 2


def test_a_mistyped_source_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fashion-mnist'"):
        load_source(config("fashon-mnist"), tmp_path)


@pytest.mark.parametrize("source", ["folder", "csv:"])
def test_a_source_without_its_path_says_how_to_write_it(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match=f"{source.rstrip(':')}:PATH"):
        load_source(config(source), tmp_path)


def test_digits_are_spread_over_the_bytes(tmp_path: Path) -> None:
    data = load_data(config("digits"), tmp_path)
    assert data.pool.images.shape == (1797, 8, 8, 1)
    assert (data.pool.images.min(), data.pool.images.max()) == (0, 255)
    assert data.classes == tuple("0123456789")
    assert data.test is None
    # The first image of the set is a zero: empty corners, a bright ring.
    assert data.pool.labels[0] == 0
    assert data.pool.images[0, 0, 0, 0] == 0


def test_npz_with_a_test_set_and_groups(tmp_path: Path) -> None:
    x, y = arrays()
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], patient=np.array(list("aabbcc")))
    data = load_data(config("npz:a.npz", validation=ValidationConfig(by="group", group_column="patient")), tmp_path)
    np.testing.assert_array_equal(data.pool.images[..., 0], x)
    assert data.pool.groups is not None
    assert list(data.pool.groups) == list("aabbcc")
    assert data.test is not None
    assert data.test.names == ["test[0]", "test[1]"]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"x": arrays()[0]}, "Array: 'y' is not known"),
        ({"x": arrays()[0].astype(np.float32), "y": arrays()[1]}, "float32.*must be uint8"),
        ({"x": arrays()[0][0], "y": arrays()[1]}, r"\[8, 8\].*must be uint8"),
        ({"x": arrays()[0], "y": arrays()[1][:3]}, r"y has shape \[3\]; there are 6 images"),
        ({"x": arrays()[0], "y": np.array([0, 1, np.nan, 0, 1, 0])}, "label nan of sample 2"),
        ({"x": arrays()[0], "y": np.zeros(6, dtype=int)}, "only one class"),
        ({"x": arrays(0)[0], "y": arrays(0)[1]}, "no images"),
        ({"x": arrays()[0], "y": np.array([{}] * 6)}, "dtype object"),
    ],
)
def test_npz_mistakes_name_the_file(tmp_path: Path, saved: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **saved)
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        load_data(config("npz:a.npz"), tmp_path)


def test_npz_that_is_missing_or_cut_off(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_data(config("npz:none.npz"), tmp_path)
    x, y = arrays()
    np.savez(tmp_path / "cut.npz", x=x, y=y)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.npz cannot be read"):
        load_data(config("npz:cut.npz"), tmp_path)


USER_CODE = """
import numpy as np

def pair(config, project_dir):
    images = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    return images, np.array(["cat", "dog", "cat", "dog"])

def nonsense(config, project_dir):
    return 7

def wrong_size(config, project_dir):
    from tuneyard.trainers.data.dataset import ImageData, Samples
    images = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    return ImageData(Samples(images, np.array([0, 1, 0, 1]), list("abcd")), None, ("a", "b"), "f")
"""


def test_the_users_function_may_return_a_pair(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(USER_CODE)
    data = load_data(config("task.py:pair"), tmp_path)
    assert data.pool.images.shape == (4, 8, 8, 3)
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "message"), [("nonsense", "returned int"), ("wrong_size", r"\[16, 16, 3\].*\[8, 8, 3\]")]
)
def test_what_the_users_function_returns_is_checked(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "task.py").write_text(USER_CODE)
    with pytest.raises(DataError, match=message):
        load_data(config(f"task.py:{name}"), tmp_path)

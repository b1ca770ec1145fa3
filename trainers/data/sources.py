"""From `data.source` to samples: the table of sources, and the ones that are arrays (digits, npz, the user's own)."""

import gzip
import importlib.util
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.labels import encode_labels
from tuneyard.trainers.errors import ConfigError, DataError, choose_from
from tuneyard.trainers.names import is_user_reference, load_object, load_user_object

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class ArraySet:
    """Samples whose pixels are in memory: images uint8 [n, H, W] or [n, H, W, C], labels int64 [n]."""

    images: Array
    labels: Array
    names: list[str]
    groups: Array | None = None
    folds: Array | None = None


@dataclass(frozen=True, slots=True)
class FileSet:
    """Samples whose pixels are still in image files: one path, and one int64 label, for each."""

    paths: list[Path]
    labels: Array
    groups: Array | None = None
    folds: Array | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What a loader hands over: the pool for training and validation, the test set if there is one, the class names."""

    pool: ArraySet | FileSet
    test: ArraySet | FileSet | None
    classes: tuple[str, ...]


# A loader takes the config, the project's folder, and what stands behind the colon ("" where nothing does).
Loader = Callable[[DataConfig, Path, str], Source]

BUILT_IN = {
    "digits": "tuneyard.trainers.data.sources:load_digits",
    "fashion-mnist": "tuneyard.trainers.data.fashion_mnist:load_fashion_mnist",
}
WITH_PATH = {
    "folder": "tuneyard.trainers.data.file_sources:load_folder",
    "csv": "tuneyard.trainers.data.file_sources:load_csv",
    "npz": "tuneyard.trainers.data.sources:load_npz",
}


def load_source(config: DataConfig, project_dir: Path) -> Any:
    """The `Source` that `config.source` names, or whatever the user's own `task.py:my_dataset` returned.

    Raises ConfigError for a source that does not exist, DataError for data that is not what it should be.
    """
    name = config.source
    if is_user_reference(name):
        return load_user_object(project_dir, name)(config, project_dir)
    kind, colon, rest = name.partition(":")
    if not colon and kind in BUILT_IN:
        loader: Loader = load_object(BUILT_IN[kind])
        return loader(config, project_dir, "")
    if colon and kind in WITH_PATH:
        if not rest:
            raise ConfigError(
                f"data.source: {name!r} has no path. Write {kind}:PATH, from the experiment file's folder."
            )
        loader = load_object(WITH_PATH[kind])
        return loader(config, project_dir, rest)
    allowed = [*BUILT_IN, *(f"{each}:PATH" for each in WITH_PATH), "s3://BUCKET/PATH", "task.py:my_dataset"]
    if not colon and kind in WITH_PATH:
        raise ConfigError(f"data.source: {name!r} needs a path. Write {kind}:PATH, from the experiment file's folder.")
    raise ConfigError(choose_from("data.source", name, allowed))


def numbered(what: str, count: int) -> list[str]:
    """Names for samples that have none: `train[0]`, `train[1]`, …"""
    return [f"{what}[{position}]" for position in range(count)]


def load_digits(config: DataConfig, project_dir: Path, rest: str) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; no test set."""
    # scikit-learn itself is not imported: that takes 2.3 s, and the file lies beside it.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "data.source digits: scikit-learn, which carries these images, is missing: install scikit-learn."
        )
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"data.source digits: {path} does not exist. Reinstall scikit-learn.")
    with gzip.open(path, "rb") as file:
        table = np.array([line.split(b",") for line in file.read().split()], dtype=np.float64).astype(np.int64)
    # The values are 0 to 16; 255 / 16 spreads them over the bytes.
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels, classes = encode_labels(table[:, -1], config.classes, str(path))
    return Source(ArraySet(images, labels, numbered("digits", len(labels))), None, classes)


def load_npz(config: DataConfig, project_dir: Path, rest: str) -> Source:
    """Arrays `x` and `y`, or `x_train` and `y_train`, with `x_test` and `y_test` if there is a test set.

    Images are uint8 [n, H, W] or [n, H, W, C]; labels are whole numbers or names. `group_column` and `fold_column` name
    further arrays, one value for each training image. Pickled arrays are refused: loading them would run code.
    """
    path = project_dir / Path(rest).expanduser()
    arrays = _read_npz(path)
    x_name, y_name = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    images = _images(arrays, x_name, path)
    labels, classes = encode_labels(_column(arrays, y_name, len(images), path), config.classes, f"{path}: {y_name}")
    validation = config.validation
    groups = _column(arrays, validation.group_column, len(images), path) if validation.group_column else None
    folds = _column(arrays, validation.fold_column, len(images), path) if validation.fold_column else None
    pool = ArraySet(images, labels, numbered(x_name.replace("x_", ""), len(images)), groups, folds)
    if "x_test" not in arrays and "y_test" not in arrays:
        return Source(pool, None, classes)
    test_images = _images(arrays, "x_test", path)
    raw = _column(arrays, "y_test", len(test_images), path)
    test_labels, _ = encode_labels(raw, list(classes), f"{path}: y_test")
    return Source(pool, ArraySet(test_images, test_labels, numbered("test", len(test_images))), classes)


def _read_npz(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"data.source npz: {path} does not exist.")
    try:
        # Opened here: NumPy leaves a damaged archive's file open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array. Save images and labels: numpy.savez(path, x=…, y=…).")
            return {name: archive[name] for name in archive.files}
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file's permissions.") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Write it with numpy.savez(path, x=…, y=…), "
            "plain arrays only (no dtype object)."
        ) from error


def _array(arrays: dict[str, Array], name: str, path: Path) -> Array:
    if name not in arrays:
        raise DataError(f"{path}: {choose_from('Array', name, arrays)} Images are x or x_train, labels y or y_train.")
    return arrays[name]


def _images(arrays: dict[str, Array], name: str, path: Path) -> Array:
    return check_images(_array(arrays, name, path), f"{path}: {name}")


def check_images(images: object, where: str) -> Array:
    """The array again, if it is uint8 [n, H, W] or [n, H, W, C] and not empty; else DataError."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim not in (3, 4):
        given = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{where} is {given}; images must be uint8, 0 to 255, of shape [n, H, W] or [n, H, W, C].")
    if 0 in images.shape:
        raise DataError(f"{where} has shape {list(images.shape)}: there are no images in it.")
    return images


def _column(arrays: dict[str, Array], name: str, count: int, path: Path) -> Array:
    values = _array(arrays, name, path)
    if values.ndim != 1 or len(values) != count:
        raise DataError(
            f"{path}: {name} has shape {list(values.shape)}; there are {count} images, so it must be [{count}]."
        )
    return values

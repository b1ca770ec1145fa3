"""The images of an experiment: one pool for training and validation, perhaps a test set, and what they are called."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.array_images import fit_arrays
from tuneyard.trainers.data.bringing import Local, at_hand
from tuneyard.trainers.data.image_files import decode_files, open_cache
from tuneyard.trainers.data.labels import encode_labels
from tuneyard.trainers.data.sources import ArraySet, FileSet, Source, check_images, load_source, numbered
from tuneyard.trainers.errors import ConfigError, DataError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Samples:
    """One set of samples; everything is in the same order.

    images: uint8 [n, H, W, C], in memory or a read-only memory map. labels: int64 [n]. names: what to call each sample
    in reports, a path or `train[17]`. groups: [n] of any comparable type. folds: int64 [n].
    """

    images: Array
    labels: Array
    names: Sequence[str]
    groups: Array | None = None
    folds: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        for what in ("labels", "names", "groups", "folds"):
            values = getattr(self, what)
            if values is not None and len(values) != count:
                raise DataError(f"There are {count} images, but {len(values)} {what}. Give one for each image.")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """An image that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageData:
    """All data of an experiment. `fingerprint`: sha256 hex over pixels or file contents, labels, classes and size."""

    pool: Samples
    test: Samples | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB, or what the user's own arrays have."""
        return int(self.pool.images.shape[3])

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.pool.images.shape[1])


def load_data(config: DataConfig, project_dir: Path) -> ImageData:
    """Find, check, decode and resize the images that `config` names; relative paths start at `project_dir`.

    Raises ConfigError for a source that does not exist, and DataError, with the file and what to do, for all else;
    StoreError where it lies in S3 and cannot be brought.
    """
    with at_hand(config) as local:
        data = _load(local.config, project_dir)
        _check_classes(data)
    validation = config.validation
    if validation.group_column is not None and data.pool.groups is None:
        raise ConfigError(f"data.validation.group_column: {config.source} has no groups; csv and npz sources can have.")
    if validation.fold_column is not None and data.pool.folds is None:
        raise ConfigError(f"data.validation.fold_column: {config.source} has no folds; csv and npz sources can have.")
    return _named(data, local)


def _load(config: DataConfig, project_dir: Path) -> ImageData:
    loaded = load_source(config, project_dir)
    if isinstance(loaded, ImageData):
        _check_users_data(loaded, config)
        return loaded
    return _assemble(loaded if isinstance(loaded, Source) else _from_pair(loaded, config), config)


def _named(data: ImageData, local: Local) -> ImageData:
    """Samples of a copy are called by the address of what it is a copy of."""
    if not local.folder:
        return data
    pool, test = (
        samples and replace(samples, names=[local.named(name) for name in samples.names])
        for samples in (data.pool, data.test)
    )
    assert pool is not None
    skipped = tuple(SkippedFile(local.named(file.path), file.reason) for file in data.skipped)
    return replace(data, pool=pool, test=test, skipped=skipped)


def _assemble(source: Source, config: DataConfig) -> ImageData:
    # The test set follows the pool's channels, so that grey test images fit a pool in colour.
    pool, pool_digest, skipped = _load_set(source.pool, config, config.channels)
    digest = hashlib.sha256(repr((source.classes, pool.images.shape[1:])).encode())
    _digest_set(digest, pool_digest, pool)
    test: Samples | None = None
    if source.test is not None:
        test, test_digest, more = _load_set(source.test, config, int(pool.images.shape[3]))
        _digest_set(digest, test_digest, test)
        skipped += more
    return ImageData(pool, test, source.classes, digest.hexdigest(), tuple(skipped))


def _digest_set(digest: "hashlib._Hash", content: str, samples: Samples) -> None:
    digest.update(content.encode())
    digest.update(samples.labels.astype("<i8").tobytes())


def _load_set(
    found: ArraySet | FileSet, config: DataConfig, channels: Literal["auto"] | int
) -> tuple[Samples, str, list[SkippedFile]]:
    """The samples at the asked size and channels, the digest of their content, and what was left out."""
    if isinstance(found, ArraySet):
        content = hashlib.sha256(repr(found.images.shape).encode())
        content.update(np.ascontiguousarray(found.images).data)
        images = fit_arrays(
            found.images, content.hexdigest(), config.image_size, channels, open_cache(config), config.source
        )
        folds = None if found.folds is None else _whole_folds(found.folds, config.source)
        return Samples(images, found.labels, found.names, found.groups, folds), content.hexdigest(), []
    if channels not in ("auto", 1, 3):
        raise ConfigError(f"data.channels is {channels}; image files have 1 (grey) or 3 (RGB), or say auto.")
    decoded = decode_files(found.paths, config.image_size, channels, open_cache(config), config.on_error)
    kept = decoded.kept
    samples = Samples(
        images=decoded.images,
        labels=found.labels[kept],
        names=[str(found.paths[position]) for position in kept],
        groups=None if found.groups is None else found.groups[kept],
        folds=None if found.folds is None else found.folds[kept],
    )
    return samples, decoded.digest, [SkippedFile(str(path), reason) for path, reason in decoded.failures]


def _whole_folds(folds: Array, source: str) -> Array:
    if folds.dtype.kind not in "iu":
        raise DataError(f"{source}: folds are {folds.dtype}; they must be whole numbers from 0.")
    return folds.astype(np.int64)


def _from_pair(loaded: object, config: DataConfig) -> Source:
    """The user's function may return (images, labels): arrays, uint8 [n, H, W(, C)] and whole numbers or names."""
    where = f"data.source {config.source}"
    if not (isinstance(loaded, tuple) and len(loaded) == 2):
        raise DataError(f"{where} returned {type(loaded).__name__}; return (images, labels), or an ImageData.")
    images = check_images(loaded[0], f"{where}: images")
    values = np.asarray(loaded[1])
    if values.shape != (len(images),):
        raise DataError(f"{where}: labels have shape {list(values.shape)}; there are {len(images)} images.")
    labels, classes = encode_labels(values, config.classes, f"{where}: labels")
    return Source(ArraySet(images, labels, numbered("sample", len(images))), None, classes)


def _check_users_data(data: ImageData, config: DataConfig) -> None:
    """What our own loaders hold to by themselves."""
    where = f"data.source {config.source}"
    wanted = [config.image_size, config.image_size, data.channels if config.channels == "auto" else config.channels]
    for samples in (data.pool, data.test):
        if samples is None:
            continue
        images = check_images(samples.images, f"{where}: images")
        if list(images.shape[1:]) != wanted:
            raise DataError(
                f"{where} returned images of {list(images.shape[1:])}, "
                f"but data.image_size and data.channels say {wanted}."
            )
        labels = samples.labels
        if labels.dtype != np.int64 or labels.min() < 0 or labels.max() >= len(data.classes):
            raise DataError(
                f"{where}: labels must be int64, 0 to {len(data.classes) - 1} for {len(data.classes)} classes."
            )


def _check_classes(data: ImageData) -> None:
    if len(data.classes) < 2:
        raise DataError(f"There is only one class, {data.classes}. Give samples of at least two classes.")
    counts = np.bincount(data.pool.labels, minlength=len(data.classes))
    empty = [name for name, count in zip(data.classes, counts, strict=True) if count == 0]
    if empty:
        after = f" after {len(data.skipped)} images were skipped" if data.skipped else ""
        raise DataError(
            f"No training samples{after} of class {', '.join(empty)}. Add some, or leave the class out of data.classes."
        )

"""Sources that name image files: a folder with one sub-folder per class, and a CSV manifest."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.labels import encode_labels
from tuneyard.trainers.data.sources import FileSet, Source
from tuneyard.trainers.errors import DataError, choose_from

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
VALIDATION_FOLDERS = ("val", "valid", "validation")
# The `fold_column` that holds out a folder tree's own validation folder, as fold 0.
FOLDER_FOLDS = "folder"


def load_folder(config: DataConfig, project_dir: Path, rest: str) -> Source:
    """PATH/CLASS/IMAGES, or PATH/train/CLASS/IMAGES with PATH/test/CLASS/IMAGES if there is a test set.

    A PATH/val (valid, validation) beside PATH/train belongs to the pool as fold 0, the rest of the pool is fold 1, and
    `validation: {fold_column: folder}` holds it out. Without that it is an error: it must not slip into training.
    """
    root = project_dir / Path(rest).expanduser()
    if not root.is_dir():
        raise DataError(f"data.source folder: {root} is not a folder.")
    held_out = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if not _class_folders(root / "train"):
        paths, names = _list_classes(root)
        labels, classes = _encode(names, config.classes, root)
        return Source(FileSet(paths, labels), None, classes)
    wanted = config.validation.fold_column == FOLDER_FOLDS
    if held_out and not wanted:
        raise DataError(
            f"{held_out[0]} exists, but data.validation would draw its own validation set. Set "
            f"data.validation.fold_column: {FOLDER_FOLDS} to hold this folder out, or move it away."
        )
    if wanted and not held_out:
        raise DataError(f"data.validation.fold_column is {FOLDER_FOLDS}, but {root} has no folder named val.")
    paths, names = _list_classes(root / "train")
    folds = [1] * len(paths)
    for folder in held_out:
        more_paths, more_names = _list_classes(folder)
        paths, names, folds = paths + more_paths, names + more_names, folds + [0] * len(more_paths)
    labels, classes = _encode(names, config.classes, root)
    pool = FileSet(paths, labels, folds=np.array(folds, dtype=np.int64) if held_out else None)
    if not (root / "test").is_dir():
        return Source(pool, None, classes)
    test_paths, test_names = _list_classes(root / "test")
    test_labels, _ = _encode(test_names, classes, root / "test")
    return Source(pool, FileSet(test_paths, test_labels), classes)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))


def _list_classes(root: Path) -> tuple[list[Path], list[str]]:
    """Every image below each class folder, sorted by path, and the class folder's name for each."""
    folders = _class_folders(root)
    if not folders:
        raise DataError(f"{root} has no class folders. Images are looked for as {root}/CLASS/IMAGE.png.")
    paths: list[Path] = []
    names: list[str] = []
    for folder in folders:
        found = sorted(
            Path(place, name)
            for place, _, files in os.walk(folder)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        )
        if not found:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DataError(f"Class folder {folder} has no images ({kinds}). Add some, or remove the folder.")
        paths += found
        names += [folder.name] * len(found)
    return paths, names


def _encode(names: list[str], classes: Sequence[str] | None, root: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Folder names are class names, as they stand: "1" and "01" are two classes."""
    found = tuple(sorted(set(names)))
    allowed = tuple(classes) if classes is not None else found
    if len(allowed) < 2:
        raise DataError(f"{root} has only one class folder, {found[0]!r}. Give samples of at least two classes.")
    unknown = [name for name in found if name not in allowed]
    if unknown:
        raise DataError(f"{root / unknown[0]}: {choose_from('Class folder', unknown[0], allowed)}")
    positions = {name: position for position, name in enumerate(allowed)}
    return np.array([positions[name] for name in names], dtype=np.int64), allowed


@dataclass(slots=True)
class _Rows:
    """The columns of a manifest, for the pool or for the test set."""

    paths: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)


def load_csv(config: DataConfig, project_dir: Path, rest: str) -> Source:
    """A CSV file with a header: one image each row, with its label and, where asked for, its group, fold and split.

    `columns.split` may hold train, test, or nothing. Paths are absolute, or relative to the CSV file's folder.
    """
    path = project_dir / Path(rest).expanduser()
    pool, test = _read_rows(config, path)
    if not pool.paths:
        raise DataError(f"{path} has no {'training ' if test.paths else ''}rows.")
    labels, classes = encode_labels(np.array(pool.labels), config.classes, f"{path}: column {config.columns.label}")
    groups = np.array(pool.groups) if pool.groups else None
    folds = np.array(pool.folds, dtype=np.int64) if pool.folds else None
    files = FileSet(pool.paths, labels, groups, folds)
    if not test.paths:
        return Source(files, None, classes)
    test_labels, _ = encode_labels(
        np.array(test.labels), classes, f"{path}: column {config.columns.label} of test rows"
    )
    return Source(files, FileSet(test.paths, test_labels), classes)


def _read_rows(config: DataConfig, path: Path) -> tuple[_Rows, _Rows]:
    pool, test = _Rows(), _Rows()
    seen: dict[Path, int] = {}
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would belong to the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(config, path, reader.fieldnames)
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                image = _image_path(config, row, path, where)
                if image in seen:
                    raise DataError(
                        f"{where}: {image} was already named in line {seen[image]}. Remove one of the rows."
                    )
                seen[image] = reader.line_num
                rows = test if _is_test(config, row, where) else pool
                _add_row(config, rows, row, image, where)
    except FileNotFoundError as error:
        raise DataError(f"data.source csv: {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from error
    return pool, test


def _check_columns(config: DataConfig, path: Path, found: Sequence[str] | None) -> None:
    if not found:
        raise DataError(f"{path} is empty. Its first line must name the columns.")
    columns, validation = config.columns, config.validation
    wanted = {
        "data.columns.path": columns.path,
        "data.columns.label": columns.label,
        "data.columns.split": columns.split,
        "data.validation.group_column": validation.group_column,
        "data.validation.fold_column": validation.fold_column,
    }
    for key, name in wanted.items():
        if name is not None and name not in found:
            raise DataError(f"{path}: {choose_from(f'Column of {key}', name, found)}")


def _image_path(config: DataConfig, row: dict[str, str], path: Path, where: str) -> Path:
    text = row[config.columns.path]
    if not text:
        raise DataError(f"{where}: column {config.columns.path} is empty.")
    # normpath, so that `a.png` and `./a.png` are seen to be the same file.
    return Path(os.path.normpath(path.parent / Path(text).expanduser()))


def _is_test(config: DataConfig, row: dict[str, str], where: str) -> bool:
    if config.columns.split is None:
        return False
    split = row[config.columns.split] or "train"
    if split not in ("train", "test"):
        # A misspelt `test` would train on test data; a validation part is what fold_column is for.
        raise DataError(
            f"{where}: {choose_from(f'Split in column {config.columns.split}', split, ('train', 'test'))} "
            "Your own validation part goes into data.validation.fold_column."
        )
    return split == "test"


def _add_row(config: DataConfig, rows: _Rows, row: dict[str, str], image: Path, where: str) -> None:
    columns, validation = config.columns, config.validation
    if not (row[columns.label] or "").strip():
        raise DataError(f"{where}: column {columns.label} is empty.")
    rows.paths.append(image)
    rows.labels.append(row[columns.label])
    if validation.group_column is not None:
        if not row[validation.group_column]:
            raise DataError(f"{where}: column {validation.group_column} is empty. Every sample needs a group.")
        rows.groups.append(row[validation.group_column])
    if validation.fold_column is not None:
        text = row[validation.fold_column] or ""
        if not text.isdecimal():
            raise DataError(f"{where}: fold {text!r} in column {validation.fold_column} is not a whole number from 0.")
        rows.folds.append(int(text))

"""Folders of images and CSV manifests: what belongs to which class, and the mistakes in them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tuneyard.trainers.config.data import CsvColumns, DataConfig, ValidationConfig
from tuneyard.trainers.data.dataset import ImageData, load_data
from tuneyard.trainers.errors import ConfigError, DataError


def write_image(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 8), value, dtype=np.uint8))


def write_file(path: Path) -> None:
    """An image where the name says so, else text."""
    if path.suffix.lower() == ".png":
        write_image(path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")


def load(tmp_path: Path, source: str, **changes: Any) -> ImageData:
    return load_data(DataConfig(source=source, image_size=8, cache_dir=str(tmp_path / "cache"), **changes), tmp_path)


def names(paths: Any) -> list[str]:
    return [Path(path).name for path in paths]


def test_folders_are_classes_and_paths_are_sorted(tmp_path: Path) -> None:
    for name in ("dog/2.png", "cat/b.png", "cat/a.PNG", "dog/deep/1.png", "dog/notes.txt", "dog/._2.png", ".git/x.png"):
        write_file(tmp_path / "data" / name)
    data = load(tmp_path, "folder:data")
    assert data.classes == ("cat", "dog")
    assert names(data.pool.names) == ["a.PNG", "b.png", "2.png", "1.png"]
    assert data.pool.labels.tolist() == [0, 0, 1, 1]
    assert data.test is None


def test_train_and_test_folders(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.png", "test/dog/c.png"):
        write_image(tmp_path / name)
    data = load(tmp_path, "folder:.")
    assert data.test is not None
    assert names(data.test.names) == ["c.png"]
    assert data.test.labels.tolist() == [1]


def test_a_validation_folder_is_never_trained_on_by_mistake(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.png", "val/dog/c.png"):
        write_image(tmp_path / name)
    with pytest.raises(DataError, match="fold_column: folder"):
        load(tmp_path, "folder:.")
    data = load(tmp_path, "folder:.", validation=ValidationConfig(fold_column="folder"))
    assert data.pool.folds is not None
    assert data.pool.folds.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        ([], {}, "is not a folder"),
        (["a.png"], {}, "no class folders"),
        (["cat/a.png"], {}, "only one class folder, 'cat'"),
        (["cat/a.png", "dog/notes.txt"], {}, "dog has no images"),
        (["cat/a.png", "dgo/b.png"], {"classes": ["cat", "dog"]}, "'dgo' is not known. Did you mean 'dog'"),
        (["cat/a.png", "dog/b.png"], {"classes": ["cat", "dog", "cow"]}, "No training samples of class cow"),
        (["train/cat/a.png", "train/dog/a.png", "test/cow/a.png"], {}, "'cow' is not known"),
    ],
)
def test_mistakes_in_folders(tmp_path: Path, files: list[str], changes: dict[str, Any], message: str) -> None:
    for name in files:
        write_file(tmp_path / "data" / name)
    with pytest.raises(DataError, match=message):
        load(tmp_path, "folder:data", **changes)


def write_csv(tmp_path: Path, text: str) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "images" / name)
    (tmp_path / "set.csv").write_text(text, encoding="utf-8")


def test_csv_with_groups_folds_and_a_test_row(tmp_path: Path) -> None:
    write_csv(
        tmp_path,
        "\ufefffile,kind,who,part,use\n"
        "images/b.png,dog,ann,1,train\nimages/a.png,cat,bob,0,\nimages/c.png,dog,eve,0,test\n",
    )
    data = load(
        tmp_path,
        "csv:set.csv",
        columns=CsvColumns(path="file", label="kind", split="use"),
        validation=ValidationConfig(by="group", group_column="who", fold_column="part"),
    )
    # In the order of the rows, which does not depend on the file system.
    assert names(data.pool.names) == ["b.png", "a.png"]
    assert data.pool.groups is not None
    assert data.pool.groups.tolist() == ["ann", "bob"]
    assert data.pool.folds is not None
    assert data.pool.folds.tolist() == [1, 0]
    assert data.test is not None
    assert names(data.test.names) == ["c.png"]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("", {}, "is empty. Its first line"),
        ("path,label\n", {}, "has no rows"),
        ("path,lable\na.png,x\n", {}, "data.columns.label: 'label' is not known. Did you mean 'lable'"),
        ("path,label\nimages/a.png,\n", {}, "line 2: column label is empty"),
        ("path,label\n,x\n", {}, "line 2: column path is empty"),
        ("path,label\nimages/a.png,x\n./images/a.png,y\n", {}, "line 3: .*a.png was already named in line 2"),
        ("path,label\nimages/a.png,x\nimages/b.png,x\n", {}, "only one class"),
        ("path,label\nimages/a.png,x\nimages/none.png,y\n", {}, "none.png: the file does not exist"),
        (
            "path,label,split\nimages/a.png,x,train\nimages/b.png,y,tset\n",
            {"columns": CsvColumns(split="split")},
            "line 3: .*'tset' is not known. Did you mean 'test'",
        ),
        (
            "path,label,fold\nimages/a.png,x,0\nimages/b.png,y,one\n",
            {"validation": ValidationConfig(fold_column="fold")},
            "line 3: fold 'one'",
        ),
    ],
)
def test_mistakes_in_a_csv_file(tmp_path: Path, text: str, changes: dict[str, Any], message: str) -> None:
    write_csv(tmp_path, text)
    with pytest.raises(DataError, match=message):
        load(tmp_path, "csv:set.csv", **changes)


def test_a_csv_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes("path,label\nä.png,x\n".encode("latin-1"))
    with pytest.raises(DataError, match="CSV file in UTF-8"):
        load(tmp_path, "csv:set.csv")


def test_groups_of_a_source_that_has_none(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        write_image(tmp_path / "data" / name)
    with pytest.raises(ConfigError, match="folder:data has no groups"):
        load(tmp_path, "folder:data", validation=ValidationConfig(by="group", group_column="patient"))

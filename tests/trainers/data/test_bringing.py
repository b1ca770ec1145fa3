"""Sources in S3: what is brought, what is not, what a change in the bucket does, and the mistakes."""

import io
import shutil
import socket
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.data.bucket import Bucket, png
from tuneyard.trainers.config.data import DataConfig, S3Config, ValidationConfig
from tuneyard.trainers.data.dataset import load_data
from tuneyard.trainers.errors import DataError, StoreError

pytestmark = pytest.mark.s3

FOLDER = {"train/cat/1.png": png(1), "train/cat/2.png": png(2), "train/dog/1.png": png(3), "test/dog/ü 9.png": png(4)}


@pytest.fixture
def animals(bucket: Bucket) -> Bucket:
    bucket.put({name: data for name, data in FOLDER.items() if name.isascii()})
    return bucket


def test_a_folder_is_what_it_would_be_on_the_disk(animals: Bucket, tmp_path: Path) -> None:
    animals.put({"notes.txt": b"no image", "train/cat/._1.png": b"none either"})
    data = animals.load()
    assert data.pool.labels.tolist() == [0, 0, 1]
    assert data.pool.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.pool.names[0] == animals.uri("train/cat/1.png")
    assert animals.copied() == ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png"]
    for name in animals.copied():
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).write_bytes(FOLDER[name])
    local = load_data(DataConfig(source="folder:local", image_size=8, cache_dir=str(tmp_path / "c")), tmp_path)
    assert local.fingerprint == data.fingerprint


def test_what_is_here_is_not_brought_again(animals: Bucket) -> None:
    animals.load()
    assert animals.reads() == ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png"]
    animals.load(kind="folder:")
    assert animals.reads() == []


def test_only_what_changed_is_brought_again(animals: Bucket) -> None:
    before = animals.load()
    animals.reads()
    animals.put({"train/cat/2.png": png(7), "train/dog/2.png": png(8)})
    after = animals.load()
    assert animals.reads() == ["train/cat/2.png", "train/dog/2.png"]
    assert after.pool.images[:, 0, 0, 0].tolist() == [1, 7, 3, 8]
    assert after.fingerprint != before.fingerprint


def test_what_was_removed_goes_here_too(animals: Bucket) -> None:
    animals.put({"train/rat/1.png": png(9)})
    animals.load()
    animals.remove("train/rat/1.png")
    assert animals.load().classes == ("cat", "dog")
    assert not list(animals.cache.glob("s3/*/files/train/rat"))


def test_a_file_that_was_changed_here_is_brought_again(animals: Bucket) -> None:
    animals.load()
    animals.reads()
    (file,) = animals.cache.glob("s3/*/files/train/cat/1.png")
    file.write_bytes(png(99))
    assert animals.load().pool.images[0, 0, 0, 0] == 1
    assert animals.reads() == ["train/cat/1.png"]


def test_a_csv_file_brings_what_its_rows_name(bucket: Bucket) -> None:
    rows = "path,label,who\nimages/1.png,cat,a\n./images/2.png,dog,b\nimages/1b.png,cat,b\nimages/2b.png,dog,a\n"
    images = {f"images/{name}.png": png(value) for name, value in (("1", 1), ("2", 2), ("1b", 3), ("2b", 4), ("5", 5))}
    bucket.put({"meta/labels.csv": rows.encode(), **{f"meta/{name}": data for name, data in images.items()}})
    validation = ValidationConfig(by="group", group_column="who")
    data = bucket.load("meta/labels.csv", validation=validation)
    assert data.pool.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert bucket.reads() == sorted(["meta/labels.csv", *(f"meta/{name}" for name in images if "5" not in name)])
    assert data.pool.names[1] == bucket.uri("meta/images/2.png")


def test_a_row_that_leaves_the_folder_is_told_with_its_line(bucket: Bucket) -> None:
    bucket.put({"meta/labels.csv": b"path,label\n1.png,cat\n../2.png,dog\n", "meta/1.png": png(1)})
    with pytest.raises(DataError, match=r"labels\.csv, line 3: '\.\./2\.png' does not lie in the CSV file's folder"):
        bucket.load("meta/labels.csv")


def test_a_row_without_its_object_is_a_missing_image(bucket: Bucket) -> None:
    bucket.put({"labels.csv": b"path,label\n1.png,cat\n2.png,dog\n3.png,dog\n", "1.png": png(1), "3.png": png(3)})
    with pytest.raises(DataError, match=rf"2\.png: the file does not exist(.|\n)*is the copy of {bucket.uri()}"):
        bucket.load("labels.csv")
    data = bucket.load("labels.csv", on_error="skip")
    assert [skipped.path for skipped in data.skipped] == [bucket.uri("2.png")]


def test_arrays(bucket: Bucket) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), y=np.array([0, 1, 0, 1]))
    bucket.put({"a.npz": file.getvalue(), "a.npz.old": b"not this"})
    assert bucket.load("a.npz").pool.images[1, 0, 0, 0] == 64
    assert bucket.reads() == ["a.npz"]


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tgz", tarred)])
def test_an_archive_is_unpacked_once_and_not_kept(bucket: Bucket, name: str, pack: Any) -> None:
    bucket.put({name: pack({f"animals/{file}": data for file, data in FOLDER.items()})})
    data = bucket.load(name)
    assert data.pool.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.test is not None
    assert list(data.test.names) == [f"{bucket.uri(name)}/animals/test/dog/ü 9.png"]
    assert bucket.copied() == sorted(f"animals/{file}" for file in FOLDER)
    assert bucket.reads() == [name]
    bucket.load(f"{name}/animals")
    assert bucket.reads() == []


def test_another_archive_under_the_same_name_takes_its_place(bucket: Bucket) -> None:
    bucket.put({"a.zip": zipped({"cat/1.png": png(1), "dog/1.png": png(2)})})
    bucket.load("a.zip")
    bucket.put({"a.zip": zipped({"cat/1.png": png(5), "rat/1.png": png(6)})})
    data = bucket.load("a.zip")
    assert (data.classes, data.pool.images[:, 0, 0, 0].tolist()) == (("cat", "rat"), [5, 6])


def test_an_unpacked_file_that_was_lost_brings_the_archive_again(bucket: Bucket) -> None:
    bucket.put({"a.zip": zipped({"cat/1.png": png(1), "dog/1.png": png(2)})})
    bucket.load("a.zip")
    (file,) = bucket.cache.glob("s3/*/tree/cat/1.png")
    file.unlink()
    assert len(bucket.load("a.zip").pool) == 2


def test_a_csv_file_inside_of_an_archive(bucket: Bucket) -> None:
    rows = b"path,label\nimages/1.png,cat\nimages/2.png,dog\n"
    bucket.put({"a.zip": zipped({"m/labels.csv": rows, "m/images/1.png": png(1), "m/images/2.png": png(2)})})
    assert bucket.load("a.zip/m/labels.csv").pool.images[:, 0, 0, 0].tolist() == [1, 2]


# Mistakes and refusals


def test_nothing_under_the_address(animals: Bucket) -> None:
    with pytest.raises(DataError, match=r"no images \(.*\.png.*\) under s3://tests/.*/cats/: nothing is there"):
        animals.load("cats")


def test_no_images_under_the_address(bucket: Bucket) -> None:
    bucket.put({"a/readme.md": b"x", "a/z.txt": b"x"})
    with pytest.raises(DataError, match=r"of 2 objects there, such as readme\.md, none is one.*CLASS/IMAGE\.png"):
        bucket.load("a")


def test_an_object_that_is_not_there(bucket: Bucket) -> None:
    bucket.put({"a.npz.old": b"x"})
    with pytest.raises(DataError, match=r"there is no object s3://tests/.*/a\.npz\. There are: a\.npz\.old\."):
        bucket.load("a.npz")


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    config = bucket.config().model_copy(update={"source": "s3://nobody-made-me/x"})
    with pytest.raises(StoreError, match=r"there is no bucket 'nobody-made-me'.*or correct data\.source\."):
        load_data(config, bucket.cache)


def test_a_refusal_names_the_rights_for_reading(animals: Bucket) -> None:
    animals.proxy.fail("status", status=403, code="AccessDenied")
    with pytest.raises(StoreError, match=r"s3:ListBucket on the bucket, s3:GetObject.*data\.s3\.anonymous") as caught:
        animals.load()
    assert "PutObject" not in str(caught.value)


def test_a_dead_link_names_the_key_of_the_endpoint(tmp_path: Path, bucket: Bucket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        reach = S3Config(endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}", deadline_s=0.2)
        config = DataConfig(source="s3://tests/x", s3=reach, cache_dir=str(tmp_path))
        with pytest.raises(StoreError, match=r"data\.s3\.deadline_s: 0\.2.*cannot be reached.*data\.s3\.endpoint_url"):
            load_data(config, tmp_path)


def test_with_the_link_away_the_copy_is_offered_and_used(animals: Bucket) -> None:
    animals.load()
    animals.proxy.fail("reset", seconds=60)
    with pytest.raises(StoreError, match=r"The copy of \d{4}-.* is whole: with data\.download: false it is used"):
        animals.load(deadline_s=0.2)
    animals.proxy.requests.clear()
    assert len(animals.load(download=False).pool) == 3
    assert animals.proxy.requests == []


def test_without_a_copy_download_false_is_told(animals: Bucket) -> None:
    with pytest.raises(DataError, match=r"was not brought to this machine as a whole, and data\.download is false"):
        animals.load(download=False)


def test_room_is_looked_for_before_anything_is_brought(animals: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = shutil.disk_usage("/")._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 12\.29 kB more on .*which has 2\.00 kB free.*data\.cache_dir"):
        animals.load()
    assert animals.reads() == []


def test_a_public_bucket_is_read_without_a_signature(animals: Bucket) -> None:
    reach = S3Config(endpoint_url=animals.proxy.endpoint_url, anonymous=True, deadline_s=1)
    with pytest.raises(StoreError, match="access is denied"):  # as the test server's bucket is private
        load_data(animals.config().model_copy(update={"s3": reach}), animals.cache)
    assert "Authorization" not in animals.proxy.requests[0].headers


def test_file_and_folder_of_one_name(bucket: Bucket) -> None:
    bucket.put({"cat/a.png": png(1), "dog/b.png": png(1)})
    bucket.put({"cat/a.png/c.png": png(2)})
    with pytest.raises(DataError, match=r"would be file and folder at once\. Rename one of the two"):
        bucket.load()

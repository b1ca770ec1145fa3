"""What a source in S3 names."""

import pytest

from tuneyard.trainers.data.s3_address import S3Address, parse_address
from tuneyard.trainers.errors import ConfigError


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("s3://b/p/train/", S3Address("folder", "b", "p/train")),
        ("folder:s3://b", S3Address("folder", "b", "")),
        ("s3://b/p/x.npz", S3Address("npz", "b", "p/x.npz")),
        ("npz:s3://b/odd-name", S3Address("npz", "b", "odd-name")),
        ("s3://b/p/labels.csv", S3Address("csv", "b", "p/labels.csv")),
        ("csv:s3://b/labels.txt", S3Address("csv", "b", "labels.txt")),
        ("s3://b/p/data.tar.gz", S3Address("folder", "b", "p/data.tar.gz", "")),
        ("s3://b/DATA.ZIP", S3Address("folder", "b", "DATA.ZIP", "")),
        ("folder:s3://b/data.zip/images/", S3Address("folder", "b", "data.zip", "images")),
        ("s3://b/data.zip/meta/labels.csv", S3Address("csv", "b", "data.zip", "meta/labels.csv")),
    ],
)
def test_kind_bucket_key_and_archive(source: str, address: S3Address) -> None:
    assert parse_address(source) == address


@pytest.mark.parametrize("source", ["digits", "folder:data", "npz:/data/x.npz", "task.py:s3", "fodler:s3://b/p"])
def test_what_is_not_in_s3_is_left_to_others(source: str) -> None:
    assert parse_address(source) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://", "names no bucket"),
        ("csv:s3://b/data.zip", r"is an archive. Say which file inside of it: csv:s3://…/NAME\.csv"),
        ("npz:s3://b/p/", "names no file"),
        ("csv:s3://b", "names no file"),
        ("s3://b/data.zip/../x", "leaves its archive"),
    ],
)
def test_an_address_that_cannot_be_is_told(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_address(source)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="may not hold credentials") as caught:
        parse_address("s3://key:hunter2@b/p")
    assert "hunter2" not in str(caught.value)

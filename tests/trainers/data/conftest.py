"""Fixtures of the tests of data in S3."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3_proxy import S3Proxy
from tests.trainers.data.bucket import Bucket
from tuneyard.cluster.seaweedfs import SeaweedServer


@pytest.fixture
def bucket(s3_server: SeaweedServer, tmp_path: Path) -> Iterator[Bucket]:
    """A prefix of a bucket, behind a proxy."""
    with S3Proxy(s3_server.endpoint_url) as proxy:
        yield Bucket(proxy, s3_server.endpoint_url, tmp_path / "cache")

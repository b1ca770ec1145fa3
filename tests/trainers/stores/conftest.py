"""Fixtures of the stores' tests."""

from collections.abc import Iterator

import pytest

from tests.s3_proxy import S3Proxy
from tuneyard.cluster.seaweedfs import SeaweedServer


@pytest.fixture
def proxy(s3_server: SeaweedServer) -> Iterator[S3Proxy]:
    """The S3 server, through a proxy that can make it go wrong."""
    with S3Proxy(s3_server.endpoint_url) as found:
        yield found

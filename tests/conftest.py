"""Fixtures that several test files share."""

import os
from collections.abc import Iterator

import pytest

from tuneyard.cluster.seaweedfs import SeaweedServer

# As the command line does, before any test imports torch: the machines of a test run are seldom idle.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server with the bucket `tests`; its credentials are in the environment while the tests run."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.create_bucket("tests")
        names = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        yield server
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""Fixtures of the fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import BASIC, Final, HoldingProxy, final, train_with
from tests.trainers.runs import make_spec
from tuneyard.cluster.seaweedfs import SeaweedServer


@pytest.fixture
def proxy(s3_server: SeaweedServer) -> Iterator[HoldingProxy]:
    """The S3 server, through a proxy that can make it go wrong."""
    with HoldingProxy(s3_server.endpoint_url) as found:
        yield found


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Final:
    """What every run here must come to."""
    spec = make_spec(tmp_path_factory.mktemp("undisturbed"), BASIC)
    train_with(spec)
    return final(spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's project lies."""
    return tmp_path / "project"

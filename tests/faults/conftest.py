"""Fixtures of the fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import BASIC, Final, HoldingProxy, Place, final, train_with
from tests.trainers.runs import make_spec
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.stores.store import open_store


@pytest.fixture(scope="session")
def _proxy(s3_server: SeaweedServer) -> Iterator[HoldingProxy]:
    with HoldingProxy(s3_server.endpoint_url) as found:
        yield found


@pytest.fixture
def proxy(_proxy: HoldingProxy) -> Iterator[HoldingProxy]:
    """The S3 server, through a proxy that can make it go wrong; one for all tests, since clients cost time to make."""
    _proxy.requests.clear()
    yield _proxy
    _proxy.let_go()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that all runs here share."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> Final:
    """What every run here must come to."""
    spec = make_spec(folder, BASIC)
    train_with(spec)
    return final(Place(open_store(spec.store_uri), spec.prefix, spec.blob_prefix))

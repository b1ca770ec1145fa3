"""The metadata service as the node asks it: a token first, no notice is a 404, and silence is told."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.node import imds
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.metadata import Metadata, spot_deadline


@dataclass
class Service:
    """A running service, and the folder that it serves."""

    folder: Path
    metadata: Metadata

    def put(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = imds.server(tmp_path, "127.0.0.1", 0)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Service(tmp_path, Metadata(f"127.0.0.1:{running.server_port}"))
    running.shutdown()
    thread.join()
    running.server_close()


def test_what_is_there_is_read_and_what_is_not_is_none(service: Service) -> None:
    service.put("instance-id", "i-0abc")
    assert service.metadata.instance_id() == "i-0abc"
    assert service.metadata.get("spot/instance-action") is None


def test_a_token_that_has_expired_is_replaced(service: Service) -> None:
    service.put("instance-id", "i-0abc")
    service.metadata._token, service.metadata._fetched = "an old one", float("inf")
    assert service.metadata.instance_id() == "i-0abc"


def test_a_proxy_of_the_environment_is_not_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    service.put("instance-id", "i-0abc")
    assert service.metadata.instance_id() == "i-0abc"


def test_silence_is_told() -> None:
    with pytest.raises(ClusterError, match=r"The metadata service at 127\.0\.0\.1:9 does not answer"):
        Metadata("127.0.0.1:9").get("instance-id")


def test_the_time_of_a_notice_is_in_utc() -> None:
    text = '{"action": "terminate", "time": "2026-11-22T08:22:00Z"}'
    assert spot_deadline(text).timestamp() == 1795335720.0


@pytest.mark.parametrize("text", ["", "soon", "{}", '{"time": 3}', '{"time": "soon"}', "[1]"])
def test_a_notice_that_is_not_understood_is_told(text: str) -> None:
    with pytest.raises(ClusterError, match="is not understood"):
        spot_deadline(text)

"""The relay that counts what clients send."""

import http.client
import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
ANSWER = b"x" * 300_000


class _Server(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        assert len(self.rfile.read(int(self.headers["Content-Length"]))) == 1_000_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_what_was_sent_is_counted_and_the_answers_are_not(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # as when the scripts are run
    with importlib.import_module("counting_proxy").CountingProxy(server) as proxy:
        for number in (1, 2):
            connection = http.client.HTTPConnection("127.0.0.1", int(proxy.url.rpartition(":")[2]), timeout=10)
            connection.request("PUT", "/", body=b"y" * 1_000_000)
            assert connection.getresponse().read() == ANSWER
            connection.close()
            assert 0 < proxy.sent - number * 1_000_000 < number * 1_000

"""An instance's metadata service (IMDSv2) with a few facts: `python metadata_server.py '{"instance-id": "i-1"}'`.

It ends with its standard input.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SESSION = "session"
FACTS: dict[str, str] = json.loads(sys.argv[1]) if __name__ == "__main__" else {}


class Metadata(BaseHTTPRequestHandler):
    """Gives a session to PUT, and facts to GET with that session."""

    def do_PUT(self) -> None:
        """A session."""
        known = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if known else 400, SESSION if known else "")

    def do_GET(self) -> None:
        """A fact, for who has a session."""
        if self.headers.get("X-aws-ec2-metadata-token") != SESSION:
            self._answer(401, "")
            return
        fact = FACTS.get(self.path.removeprefix("/latest/meta-data/"))
        self._answer(404 if fact is None else 200, fact or "")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Nothing is logged."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("169.254.169.254", 80), Metadata)
    print("ready", flush=True)  # noqa: T201  (whom it was started by waits for this)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()

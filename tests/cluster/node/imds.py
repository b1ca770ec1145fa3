"""A small instance metadata service, version 2: `python imds.py FOLDER ADDRESS PORT` serves what lies in FOLDER.

What is asked for is a file below FOLDER; one that is not there is a 404, which is how the real one says that there is
no notice. Without a token of its own every answer is a 401.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ADDRESS = "169.254.169.254"
TOKEN = "a-token"
PREFIX = "/latest/meta-data/"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    folder: Path

    def do_PUT(self) -> None:
        """The session token, for who says how long it is to live."""
        asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        fine = self.path == "/latest/api/token" and asked.isdigit()
        self._answer(200 if fine else 400, TOKEN if fine else "")

    def do_GET(self) -> None:
        """A piece of metadata."""
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self._answer(401, "")
            return
        path = self.folder / self.path.removeprefix(PREFIX)
        self._answer(200 if path.is_file() else 404, path.read_text() if path.is_file() else "")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name that it overrides)
        """Nothing."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def server(folder: Path, address: str, port: int) -> ThreadingHTTPServer:
    """A server that is not running yet."""
    return ThreadingHTTPServer((address, port), type("Here", (Handler,), {"folder": folder}))


if __name__ == "__main__":
    server(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).serve_forever()

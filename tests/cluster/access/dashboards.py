"""A small server that asks for a token as Ray's dashboard does; runs on a host's loopback as a script of its own."""

import http.server
import json
import os
import sys


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers every path with what it was asked; 401 without a token, 403 with another one, 404 below /missing."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if given is None:
            return self._answer(401, "Unauthorized")
        if given != f"Bearer {os.environ['TOKEN']}":
            return self._answer(403, "Forbidden")
        if self.path.startswith("/missing"):
            return self._answer(404, "there is nothing")
        return self._answer(200, json.dumps({"path": self.path, "method": self.command}))

    do_POST = do_GET  # noqa: N815  (the name is the standard library's)

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def _answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Dashboard).serve_forever()

"""A proxy in front of an S3 server that makes it go wrong, as a test says and for as long as it says.

    with S3Proxy(s3_server.endpoint_url) as proxy:
        store = open_store("s3://tests/x", S3Options(endpoint_url=proxy.endpoint_url))
        proxy.fail("status", times=3)  # three times 503 SlowDown
        proxy.fail("drop-answer", method="PUT", key="manifest")  # the next such PUT goes through, its answer does not
        proxy.fail("hang", seconds=2)  # silence for all that comes in the next two seconds

Requests are signed with the host name that the client sees, which is the proxy's; it goes on to the server unchanged.
"""

import contextlib
import http.client
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self, cast
from urllib.parse import unquote, urlsplit

Kind = Literal[
    "status", "hang", "reset", "reset-upload", "reset-download", "alter-upload", "alter-download", "drop-answer"
]
"""status: an error answer, the request is not passed on. hang: no answer until `heal` or the end. reset: the connection
is reset at once; …-upload and …-download: when half of the body has passed. alter-…: one byte in the middle of the body
is another. drop-answer: the server does what was asked, and the connection is reset in place of its answer."""

_PIECE_BYTES = 2**14
_BUFFER_BYTES = 2**17
"""Small, or the system's buffers would take a whole body, and a slow link would look fast."""


_READING_S = 0.3
"""A reset makes the client lose what it has not read yet; so much time it has to read what was sent before."""


@dataclass
class Request:
    """One request as the proxy saw it; `target` is its path and query, bytes are those of the bodies."""

    method: str
    target: str
    headers: dict[str, str]
    sent: int = 0
    received: int = 0
    status: int = 0
    fault: Kind | None = None


@dataclass
class _Fault:
    kind: Kind
    method: re.Pattern[str]
    key: re.Pattern[str]
    left: float
    until: float
    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)


class S3Proxy:
    """The proxy, on a port of its own while the `with` block lasts; with `tls`, a PEM file of key and certificate.

    `requests` grows by each request. `bytes_per_s` and `latency_s` may be set at any moment, and hold for all
    connections together.
    """

    def __init__(self, upstream: str, *, tls: str | None = None) -> None:
        self.requests: list[Request] = []
        self.bytes_per_s: float | None = None
        self.latency_s = 0.0
        self.healed = threading.Event()
        self.upstream = urlsplit(upstream).netloc
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._link = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        if tls is not None:
            self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.context.load_cert_chain(tls)
        self.endpoint_url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()

    def fail(
        self,
        kind: Kind,
        *,
        method: str = "",
        key: str = "",
        times: int | None = None,
        seconds: float | None = None,
        status: int = 503,
        code: str = "SlowDown",
        headers: dict[str, str] | None = None,
    ) -> None:
        """From now on, `times` requests go wrong, or all for some `seconds`; once, where neither is given.

        `method` and `key` are regular expressions; that of the key is searched in the path and the query, so that
        `uploadId=` finds parts. Of several that fit, the first given counts.
        """
        left = times if times is not None else 1 if seconds is None else float("inf")
        until = float("inf") if seconds is None else time.monotonic() + seconds
        fault = _Fault(kind, re.compile(method), re.compile(key), left, until, status, code, headers or {})
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        """Nothing goes wrong any more; connections that hang are reset."""
        with self._lock:
            self._faults.clear()
            hanging, self.healed = self.healed, threading.Event()
        hanging.set()

    def seen(self, method: str = "", key: str = "") -> list[Request]:
        """The requests so far whose method and target fit these regular expressions."""
        with self._lock:
            return [one for one in self.requests if re.search(method, one.method) and re.search(key, one.target)]

    def begin(self, request: Request) -> _Fault | None:
        """Note a request; what is to go wrong with it?"""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                fits = fault.method.search(request.method) and fault.key.search(request.target)
                if fits and fault.left > 0 and time.monotonic() < fault.until:
                    fault.left -= 1
                    request.fault = fault.kind
                    return fault
        return None

    def carry(self, count: int) -> None:
        """Take the time that `count` bytes have on the link."""
        if self.bytes_per_s is not None:
            with self._link:  # one link for all connections
                time.sleep(count / self.bytes_per_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: S3Proxy
    context: ssl.SSLContext | None = None

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # each connection inherits it
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self.context is not None:  # the handshake is left to the connection's own thread
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self._proxy = cast(_Server, self.server).proxy
        self._upstream = http.client.HTTPConnection(self._proxy.upstream, timeout=120)

    def finish(self) -> None:
        self._upstream.close()
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def handle_expect_100(self) -> bool:
        return True  # it is said when the body is read, since a refusal comes before it

    def _serve(self) -> None:
        request = Request(self.command, unquote(self.path), dict(self.headers.items()))
        fault = self._proxy.begin(request)
        kind = fault.kind if fault else None
        time.sleep(self._proxy.latency_s)
        if kind == "hang":
            self._proxy.healed.wait()
        if kind in ("hang", "reset"):
            return self._reset()
        if fault is not None and kind == "status":
            return self._refuse(fault, request)
        if self._pass_on(request, kind):
            self._answer(request, kind)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class's names

    def _pass_on(self, request: Request, kind: Kind | None) -> bool:
        """Send the request to the server; False where the connection was reset on the way."""
        length = int(self.headers.get("Content-Length", 0))
        if "Expect" in self.headers:
            self.send_response_only(100)
            self.end_headers()
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                self._upstream.putheader(name, value)
        self._upstream.endheaders()
        while request.sent < length:
            piece = self.rfile.read(min(_PIECE_BYTES, length - request.sent))
            if not piece:
                self.close_connection = True
                return False
            self._proxy.carry(len(piece))
            if request.sent <= length // 2 < request.sent + len(piece):
                if kind == "reset-upload":
                    self._reset()
                    return False
                if kind == "alter-upload":
                    piece = _altered(piece, length // 2 - request.sent)
            self._upstream.send(piece)
            request.sent += len(piece)
        return True

    def _answer(self, request: Request, kind: Kind | None) -> None:
        answer = self._upstream.getresponse()
        request.status = answer.status
        if kind == "drop-answer":
            return self._reset()
        body = None if self.command == "HEAD" or answer.length is not None else answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        length = len(body) if body is not None else answer.length or 0
        while request.received < length:
            piece = body if body is not None else answer.read(min(_PIECE_BYTES, length - request.received))
            self._proxy.carry(len(piece))
            if request.received <= length // 2 < request.received + len(piece):
                if kind == "reset-download":
                    time.sleep(_READING_S)
                    return self._reset()
                if kind == "alter-download":
                    piece = _altered(piece, length // 2 - request.received)
            request.received += len(piece)  # first: the client may be done, and look, before `write` returns
            self.wfile.write(piece)
        answer.read()
        return None

    def _refuse(self, fault: _Fault, request: Request) -> None:
        """S3's XML of an error. A body that is on its way already is read first, or the answer would be lost."""
        if "Expect" not in self.headers:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>from the proxy</Message></Error>"
        request.status = fault.status
        self.send_response_only(fault.status)
        for name, value in {"Content-Type": "application/xml", "Connection": "close", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text.encode())
        self.close_connection = True

    def _reset(self) -> None:
        """Close with RST, as a machine does that has lost its memory of the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())
        self.close_connection = True


def _altered(piece: bytes, at: int) -> bytes:
    return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]

"""A relay in front of a server that counts the bytes which its clients send: headers, bodies, repeats, everything.

Bytes are told where all sides are alike: at the socket. It is used in a pass of its own, which is not timed.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PIECE_BYTES = 2**18


class CountingProxy:
    """Relays to the server at `target` (http://HOST:PORT) while the `with` block lasts; `url` takes its place."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._door = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sent = 0
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"

    @property
    def sent(self) -> int:
        """Bytes that clients have sent until now."""
        with self._lock:
            return self._sent

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._door, *self._ends):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
        for thread in self._threads:
            thread.join(1.0)  # one that does not wake up ends with the process
        for one in (self._door, *self._ends):
            one.close()

    def _start(self, work: Callable[..., None], *words: object) -> None:
        thread = threading.Thread(target=work, args=words, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._ends += [client, server]
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._relay, client, server, True)
            self._start(self._relay, server, client, False)

    def _relay(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        piece = memoryview(bytearray(PIECE_BYTES))
        with contextlib.suppress(OSError):
            while got := source.recv_into(piece):
                if count:
                    with self._lock:
                        self._sent += got
                sink.sendall(piece[:got])
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)  # the other direction may still have something to say

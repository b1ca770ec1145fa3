"""`python -m tuneyard.cluster.doctor.links`: can this node reach the others, and how far are their clocks apart?

It runs on all nodes at the same time. Each listens on one port of its private address and asks every other for its
time, with no torch in between: what fails here is the network's doing.
"""

import contextlib
import errno
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, Field

from tuneyard.cluster.doctor.clock import Offset, offset_of, surest

_QUESTIONS = 8
_QUESTION = b"?"
_ANSWER = struct.Struct("!dd")
_CONNECT_S = 2.0
_PAUSE_S = 0.1
_AT_A_TIME = 32


class LinksRequest(BaseModel):
    """What one node is asked. `others`: the other nodes' private addresses, by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    others: dict[str, str]
    port: int = Field(description="The same on all nodes.")
    wait_s: float = Field(20.0, description="So long after its own start a node tries, and can be reached.")


class Link(BaseModel):
    """The way from this node to another one: an error, or how far the other's clock is ahead of this node's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: str | None = None
    offset_s: float = 0.0
    bound_s: float = 0.0


class LinksReply(BaseModel):
    """What one node found. `port_taken`: it could not listen, since another program does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port_taken: bool = False
    links: dict[str, Link] = Field(default_factory=dict)


def look(request: LinksRequest) -> LinksReply:
    """Listen, ask all others, and stay until all others have asked, or the time is over."""
    deadline = time.monotonic() + request.wait_s
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((request.address, request.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return LinksReply(port_taken=True)
            told = f"this machine has no address {request.address} ({error.strerror})"
            return LinksReply(links=dict.fromkeys(request.others, Link(error=told)))
        server.listen(128)
        asked = set[str]()
        threading.Thread(target=_serve, args=[server, asked], daemon=True).start()
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            tried = {
                name: pool.submit(_try, request.address, address, request.port, deadline)
                for name, address in request.others.items()
            }
            links = {name: one.result() for name, one in tried.items()}
        while not asked.issuperset(request.others.values()) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
    return LinksReply(links=links)


def _serve(server: socket.socket, asked: set[str]) -> None:
    while True:
        try:
            connection, (address, *_) = server.accept()
        except OSError:  # closed: the time is over
            return
        threading.Thread(target=_answer, args=[connection, address, asked], daemon=True).start()


def _answer(connection: socket.socket, address: str, asked: set[str]) -> None:
    """Answer each question with the times of its arrival and of the answer."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_CONNECT_S)
        while connection.recv(1):
            received = time.time()
            connection.sendall(_ANSWER.pack(received, time.time()))
        asked.add(address)


def _try(own: str, address: str, port: int, deadline: float) -> Link:
    """Ask until there is an answer: the other node may have started later."""
    while True:
        try:
            # From our private address: it is this way that the other nodes' firewalls see.
            with socket.create_connection((address, port), timeout=_CONNECT_S, source_address=(own, 0)) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                offset = surest(_ask(connection) for _ in range(_QUESTIONS))
                return Link(offset_s=offset.offset_s, bound_s=offset.bound_s)
        except OSError as error:
            if time.monotonic() > deadline:
                return Link(error=_told(error))
        time.sleep(_PAUSE_S)


def _ask(connection: socket.socket) -> Offset:
    sent = time.time()
    connection.sendall(_QUESTION)
    text = b""
    while len(text) < _ANSWER.size:
        piece = connection.recv(_ANSWER.size - len(text))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        text += piece
    received, answered = _ANSWER.unpack(text)
    return offset_of(sent, received, answered, time.time())


def _told(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer: a firewall drops what is sent, or the cable is out"
    if isinstance(error, ConnectionRefusedError):
        return "refused: a firewall rejects it"
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"{error.strerror}: there is no way there"
    return error.strerror or str(error)


def pairs(found: Mapping[str, LinksReply]) -> Iterator[tuple[str, str, Link]]:
    """(from, to, link), of all that was found."""
    for here, reply in found.items():
        for there, link in reply.links.items():
            yield here, there, link


if __name__ == "__main__":
    sys.stdout.write(look(LinksRequest.model_validate(json.load(sys.stdin))).model_dump_json() + "\n")

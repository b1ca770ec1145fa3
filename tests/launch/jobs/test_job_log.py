"""Following a log over links that break: against a server that speaks as Ray's head does, and drops connections."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.access.tunnel import LinkError
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Token
from tuneyard.launch.jobs import log as job_log
from tuneyard.launch.jobs.jobs import Job
from tuneyard.launch.jobs.log import exit_status, follow_job, outcome

# Ray's client asks aiohttp so; the connections are plain HTTP.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")

LINES = [f"line {number}: {'é' * number}\n" for number in range(40)]


@dataclass
class Head:
    """A job's log in pieces. `cuts`: before how many pieces each connection to it breaks; then no more."""

    cuts: list[int] = field(default_factory=list)
    unknown: bool = False
    late: str = ""
    """Printed after the job's end was noticed."""
    opened: int = 0
    port: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/{id}", self._job)
        app.router.add_get("/api/jobs/{id}/logs", self._log)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        return app

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def _job(self, request: web.Request) -> web.Response:
        if self.unknown:
            return web.Response(status=404, text="Job j does not exist")
        job = {"type": "SUBMISSION", "submission_id": "j", "status": "SUCCEEDED", "entrypoint": "x"}
        return web.json_response(job | {"driver_exit_code": 0})

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(LINES) + self.late})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        self.opened += 1
        cut = self.cuts.pop(0) if self.cuts else None
        socket_ = web.WebSocketResponse()
        await socket_.prepare(request)
        pieces = ["".join(LINES[start : start + 7]) for start in range(0, len(LINES), 7)]
        for piece in pieces[:cut]:
            await socket_.send_str(piece)
        if cut is not None:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        return socket_


async def serve(head: Head, ready: threading.Event, over: threading.Event) -> None:
    runner = web.AppRunner(head.app(), access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    head.port = listener.getsockname()[1]
    await web.SockSite(runner, listener).start()
    ready.set()
    while not over.is_set():
        await asyncio.sleep(0.02)
    await runner.cleanup()


@pytest.fixture
def head() -> Iterator[Head]:
    made = Head()
    ready, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(made, ready, over)))
    thread.start()
    assert ready.wait(10)
    yield made
    over.set()
    thread.join()


class WithoutTunnel(Connection):
    """Straight to the Head. `refused`: so often the way is closed when it is made anew."""

    def __init__(self, head: Head, folder: Path, refused: int = 0) -> None:
        token = folder / "token"
        token.touch(0o600)
        token.write_text("abc")
        super().__init__(
            Inventory(
                name="lab",
                kind="onprem",
                version="0",
                head=Node(name="head", address="127.0.0.1"),
                token=Token(file=token),
                python="python",
                folder="/opt",
            )
        )
        self._head, self.refused, self.renewed = head, refused, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._head.port}"

    @property
    def alive(self) -> bool:
        return True

    def renew(self) -> None:
        self.renewed += 1
        if self.renewed <= self.refused:
            raise LinkError("not yet")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "PAUSE_S", 0.01)


def test_a_log_comes_whole_and_in_order(head: Head, tmp_path: Path) -> None:
    written: list[str] = []
    job = follow_job(WithoutTunnel(head, tmp_path), "j", written.append, pytest.fail)
    assert "".join(written) == "".join(LINES)
    assert job.status == "succeeded"


def test_no_line_is_lost_or_repeated_where_the_link_breaks_again_and_again(head: Head, tmp_path: Path) -> None:
    head.cuts = [0, 3, 3, 2, 5]
    written: list[str] = []
    said: list[str] = []
    connection = WithoutTunnel(head, tmp_path, refused=2)
    follow_job(connection, "j", written.append, said.append)
    assert "".join(written) == "".join(LINES)
    assert said == ["The link to the head is broken; the job goes on. Trying again ...", "The link is back."] * 5
    assert connection.renewed == 7


def test_what_is_printed_as_the_job_ends_is_not_lost(head: Head, tmp_path: Path) -> None:
    head.late = "the very last\n"
    written: list[str] = []
    follow_job(WithoutTunnel(head, tmp_path), "j", written.append, pytest.fail)
    assert "".join(written).endswith("line 39: " + "é" * 39 + "\nthe very last\n")


def test_the_beginning_can_be_left_out(head: Head, tmp_path: Path) -> None:
    written: list[str] = []
    follow_job(WithoutTunnel(head, tmp_path), "j", written.append, pytest.fail, after=len(LINES[0]) + 3)
    assert "".join(written) == "".join(LINES)[len(LINES[0]) + 3 :]


def test_a_head_that_does_not_know_the_job_is_not_asked_for_ever(head: Head, tmp_path: Path) -> None:
    head.unknown = True
    with pytest.raises(ClusterError, match="404 to /api/jobs/j: Job j does not exist"):
        follow_job(WithoutTunnel(head, tmp_path), "j", pytest.fail, pytest.fail)


def test_it_gives_up_in_the_end_and_says_how_to_come_back(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "GIVE_UP_S", 0.05)
    head.cuts = [2]
    with pytest.raises(LinkError, match=r"not yet(.|\n)*tuneyard logs"):
        follow_job(WithoutTunnel(head, tmp_path, refused=10**6), "j", lambda text: None, lambda text: None)


@pytest.mark.parametrize(
    ("job", "status", "told"),
    [
        (Job("j", "succeeded", "x", exit_code=0), 0, "Job j: succeeded"),
        (Job("j", "failed", "x", exit_code=2), 2, "Job j: failed (exit status 2)"),
        (Job("j", "failed", "x", message="no space"), 1, "Job j failed: no space"),
        (Job("j", "stopped", "x"), 130, "Job j: stopped"),
    ],
)
def test_the_exit_status_is_the_jobs(job: Job, status: int, told: str) -> None:
    assert exit_status(job) == status
    assert outcome(job) == told

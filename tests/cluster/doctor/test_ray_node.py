"""Ray on a node: its ports and its token, judged without a Ray; a real one is looked at in the doctor's own test."""

import contextlib
import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuneyard.cluster.doctor.findings import Finding, Result
from tuneyard.cluster.doctor.ray_node import DASHBOARD, RUNNING, TOKEN, check_ray, judge_ports
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.environment import MARK
from tuneyard.cluster.node.folder import NodeFolder

SECRET = "0123456789abcdef" * 4
PRIVATE = ["127.0.0.1", "10.0.0.5", "::1"]
PUBLIC = [*PRIVATE, "8.8.4.4"]
WORKER = NodeConfig(cluster="lab", role="worker", name="w1", head="10.0.0.1", kind="onprem")


def test_private_addresses_are_in_order() -> None:
    found = judge_ports([("10.0.0.5", 6379, "gcs_server"), ("127.0.0.1", 8265, "dashboard")], PRIVATE, 8265)
    assert found.result is Result.OK


def test_ports_on_every_address_are_listed() -> None:
    found = judge_ports([("0.0.0.0", 52365, "dashboard/agent.py"), ("10.0.0.5", 6379, "gcs_server")], PRIVATE, 8265)
    assert found.result is Result.WARNING
    assert found.found == "on every address, all private: 52365 (dashboard/agent.py)"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "8.8.4.4"])
def test_a_public_address_is_a_failure(address: str) -> None:
    found = judge_ports([(address, 52365, "agent")], PUBLIC, 8265)
    assert found.result is Result.FAILURE
    assert found.found == "on the public address 8.8.4.4: 52365 (agent)"


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.5"])
def test_the_dashboard_belongs_on_the_loopback(address: str) -> None:
    found = judge_ports([(address, 8265, "dashboard")], PRIVATE, 8265)
    assert found.result is Result.FAILURE
    assert f"the dashboard listens on {address}:8265" in found.found


def findings(folder: Path) -> dict[str, Finding]:
    return {found.name: found for found in check_ray(WORKER, NodeFolder(folder))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder in which nothing runs."""
    made = tmp_path / "lab"
    made.mkdir(mode=0o700)
    (made / "token").write_text(SECRET)
    (made / "token").chmod(0o600)
    return made


def test_a_node_where_nothing_runs(folder: Path) -> None:
    found = findings(folder)
    assert found[RUNNING].result is Result.FAILURE
    assert "down, as worker w1: raylet does not run" in found[RUNNING].found
    assert f"start --folder {folder}" in found[RUNNING].advice
    assert found[TOKEN].result is Result.OK


def test_a_node_that_was_told_to_leave_is_no_failure(folder: Path) -> None:
    (folder / "run").mkdir()
    NodeFolder(folder).write_state("drained", "spot notice")
    assert findings(folder)[RUNNING].result is Result.NOT_APPLICABLE


@pytest.mark.parametrize(("name", "mode"), [("token", 0o644), (".", 0o755)])
def test_a_token_that_others_can_read(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    found = findings(folder)[TOKEN]
    assert found.result is Result.FAILURE
    assert f"{mode:04o}" in found.found
    assert found.advice.startswith("chmod go= ")


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., None]]:
    """Starts processes as the node's Ray would: with its mark in their environment."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> None:
            line = ["/bin/sh", "-c", "read _", "sh", *arguments]
            process = subprocess.Popen(line, stdin=subprocess.PIPE, env={MARK: str(folder), **environment})
            stack.callback(process.communicate)

        yield start


def test_a_process_that_does_not_ask_for_the_token(folder: Path, started: Callable[..., None]) -> None:
    started(RAY_AUTH_MODE="token")
    assert findings(folder)[TOKEN].result is Result.OK
    started(RAY_AUTH_MODE="disabled")
    found = findings(folder)[TOKEN]
    assert found.result is Result.FAILURE
    assert "started without RAY_AUTH_MODE=token: sh" in found.found


def test_a_process_with_a_title_hides_its_environment_and_is_not_blamed(folder: Path) -> None:
    """As Ray's agents do: the title takes the place of the command line, and of what lies behind it."""
    line = ["ray-dashboard-JobHead-0 (python)", "-c", "read _"]
    process = subprocess.Popen(line, executable="/bin/sh", stdin=subprocess.PIPE, env={MARK: str(folder)})
    try:
        assert findings(folder)[TOKEN].result is Result.OK
    finally:
        process.communicate()


def test_a_token_in_the_arguments_of_a_process(folder: Path, started: Callable[..., None]) -> None:
    started(SECRET, RAY_AUTH_MODE="token")
    found = findings(folder)[TOKEN]
    assert found.result is Result.FAILURE
    assert "in the arguments of process" in found.found
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("asks", "secret", "result", "told"),
    [
        (True, SECRET, Result.OK, "401 without the token, 200 with it; 1 node in Ray"),
        (True, "another", Result.FAILURE, "403 with the token"),
        (False, SECRET, Result.FAILURE, "answers without a token"),
    ],
)
def test_the_dashboard(
    folder: Path, started: Callable[..., None], asks: bool, secret: str, result: Result, told: str
) -> None:
    started(RAY_AUTH_MODE="token")
    with dashboard(secret, asks=asks) as port:
        config = NodeConfig(cluster="lab", role="head", name="head", kind="onprem", dashboard_port=port)
        found = {one.name: one for one in check_ray(config, NodeFolder(folder))}[DASHBOARD]
    assert found.result is result
    assert told in found.found


@contextlib.contextmanager
def dashboard(secret: str, *, asks: bool) -> Iterator[int]:
    """What Ray's dashboard answers, with one node alive and one dead, on a port of the loopback."""
    rows = [
        {"state": "ALIVE", "node_name": "head", "node_ip": "10.0.0.1", "resources_total": {"CPU": 8.0}},
        {"state": "DEAD", "node_name": "w1", "node_ip": "10.0.0.2", "resources_total": {"CPU": 8.0}},
    ]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers["Authorization"]
            status = 200 if not asks or given == f"Bearer {secret}" else 401 if given is None else 403
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"result": {"result": rows}}}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_token_that_is_not_there(folder: Path) -> None:
    (folder / "token").unlink()
    assert findings(folder)[TOKEN].result is Result.FAILURE

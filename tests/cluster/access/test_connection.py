"""The way to a head's loopback, over real sshd in a network of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Hosts, hosts
from tuneyard.cluster import aws
from tuneyard.cluster.access import tunnel
from tuneyard.cluster.access.connection import connect
from tuneyard.cluster.access.tunnel import LinkError, Tunnel
from tuneyard.cluster.aws import PortSession
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token

pytestmark = pytest.mark.hosts

PORT = 8265
TOKEN = "0123456789abcdef"


@dataclass
class Lab:
    """A head with a dashboard on its loopback."""

    made: Hosts
    inventory: Inventory

    @property
    def head(self) -> Host:
        return self.made["head"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "token").touch(0o600)
    (folder / "token").write_text(TOKEN)
    with hosts(folder, ["head", "jump"]) as made:
        head = made["head"]
        server = [sys.executable, str(Path(__file__).with_name("dashboards.py")), str(PORT)]
        process = subprocess.Popen(head.inside(server), env={**os.environ, "TOKEN": TOKEN})
        ssh = Ssh(host=head.address, key_file=made.keys.client, known_hosts=made.keys.known_hosts)
        node = Node(name="head", address=head.address, ssh=ssh)
        yield Lab(
            made,
            Inventory(
                name="lab", kind="onprem", version="0", head=node, dashboard_port=PORT, python="python", folder="/opt",
                token=Token(file=folder / "token"),
            ),
        )  # fmt: skip
        process.kill()
        process.wait()


def ssh_of(owner: int) -> set[int]:
    """The ssh clients that hold a tunnel open for this process."""
    children = Path(f"/proc/{owner}/task/{owner}/children").read_text().split()
    return {int(pid) for pid in children if b"ExitOnForwardFailure=yes" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def within(seconds: float, came: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not came() and time.monotonic() < deadline:
        time.sleep(0.02)
    return came()


def ends(pid: int) -> bool:
    return within(5, lambda: not Path(f"/proc/{pid}").exists())


def test_requests_carry_the_token_and_nothing_stays_open(lab: Lab) -> None:
    with connect(lab.inventory) as connection:
        assert connection.get("/api/jobs/") == {"path": "/api/jobs/", "method": "GET"}
        assert connection.send("POST", "/x") == {"path": "/x", "method": "POST"}
        (opened,) = ssh_of(os.getpid())
        assert TOKEN not in Path(f"/proc/{opened}/cmdline").read_text()
        assert TOKEN not in repr(connection)
        port = int(connection.url.rsplit(":", 1)[1])
    assert ends(opened)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_proxy_of_the_environment_never_sees_the_token(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with connect(lab.inventory) as connection:
        assert connection.get("/x")


@pytest.mark.parametrize(("token", "status"), [("another", 403)])
def test_a_refused_token_is_told_and_not_repeated(lab: Lab, tmp_path: Path, token: str, status: int) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(token)
    wrong = lab.inventory.model_copy(update={"token": Token(file=path)})
    with pytest.raises(ClusterError, match=rf"Cluster lab refuses the token \({status}\)") as raised, connect(wrong):
        pass
    assert token not in str(raised.value).replace("is another cluster's", "")
    assert not isinstance(raised.value, LinkError), "to try again is of no use"


def test_an_error_of_the_head_is_told(lab: Lab) -> None:
    with connect(lab.inventory) as connection, pytest.raises(ClusterError, match="404 to /missing/x: there is nothing"):
        connection.get("/missing/x")


def test_a_broken_link_is_noticed_and_made_anew(lab: Lab) -> None:
    with connect(lab.inventory) as connection:
        (opened,) = ssh_of(os.getpid())
        os.kill(opened, signal.SIGKILL)
        assert within(5, lambda: not connection.alive)
        with pytest.raises(LinkError, match="The head of cluster lab does not answer"):
            connection.get("/x")
        connection.renew()
        assert connection.alive
        assert connection.get("/x") == {"path": "/x", "method": "GET"}


def test_a_head_without_network_is_a_broken_link(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.cluster.access.ssh.CONNECT_S", 1)
    lab.head.cut()
    try:
        with pytest.raises(LinkError, match="No tunnel to head: ssh: connect to host"), connect(lab.inventory):
            pass
    finally:
        lab.head.mend()


def test_a_machine_with_another_host_key_is_not_talked_to(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()
    assert lab.inventory.head.ssh is not None
    ssh = lab.inventory.head.ssh.model_copy(update={"known_hosts": tmp_path / "known_hosts"})
    stranger = lab.inventory.head.model_copy(update={"ssh": ssh})
    with pytest.raises(ClusterError, match="Host key verification failed"), Tunnel(stranger, PORT):
        pass


def test_a_dashboard_that_is_not_there_is_told_by_the_way_that_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.cluster.access.connection.ANSWER_S", 0.3)
    away = lab.inventory.model_copy(update={"dashboard_port": 8266})
    with (
        pytest.raises(LinkError, match=r"does not answer: .*open failed: connect failed: Connection refused"),
        connect(away),
    ):
        pass


def test_it_goes_through_a_jump_host(lab: Lab) -> None:
    jump = lab.made["jump"]
    assert lab.inventory.head.ssh is not None
    ssh = lab.inventory.head.ssh.model_copy(update={"jump": f"root@{jump.address}"})
    behind = lab.inventory.model_copy(update={"head": lab.inventory.head.model_copy(update={"ssh": ssh})})
    with connect(behind) as connection:
        assert connection.get("/x")
        assert any("sshd: root" in line for line in jump.processes().values()), "by way of the jump host"


def test_the_tunnel_dies_with_a_process_that_is_killed(lab: Lab) -> None:
    script = (
        "import sys, time\n"
        "from tuneyard.cluster.inventory import Node\n"
        "from tuneyard.cluster.access.tunnel import Tunnel\n"
        f"with Tunnel(Node.model_validate_json(sys.argv[1]), {PORT}) as tunnel:\n"
        "    print(tunnel.local_port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    line = [sys.executable, "-c", script, lab.inventory.head.model_dump_json()]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        (opened,) = ssh_of(owner.pid)
        owner.kill()
    assert ends(opened)


def test_a_node_that_cannot_be_reached_at_all_is_told() -> None:
    with pytest.raises(ClusterError, match="neither ssh nor an instance id"), Tunnel(Node(name="w", address="x"), PORT):
        pass


PLUGIN = """#!{python}
import json, os, socket, sys, threading
request = json.loads(sys.argv[5])
response = json.loads(os.environ[sys.argv[1]])
assert sys.argv[2:5] == ["eu-west-1", "StartSession", ""], sys.argv
assert response["TokenValue"] == "session-secret"
listener = socket.create_server(("127.0.0.1", int(request["Parameters"]["localPortNumber"][0])))
print("Waiting for connections...", flush=True)
while True:
    taken, _ = listener.accept()
    taken.sendall(request["Parameters"]["portNumber"][0].encode())
    taken.close()
"""
"""Takes what AWS's own plugin takes, and says on each connection which port of the machine was asked for."""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """AWS grants sessions, and the plugin is installed. What happened, in order."""
    happened: list[str] = []

    def start(instance_id: str, port: int, local_port: int, region: str | None) -> PortSession:
        happened.append(f"start {instance_id} {region}")
        parameters = {"portNumber": [str(port)], "localPortNumber": [str(local_port)]}
        response = {"SessionId": "s-1", "TokenValue": "session-secret", "StreamUrl": "wss://x"}
        return PortSession("s-1", "eu-west-1", "https://ssm", {"Parameters": parameters}, response)

    def end(session_id: str, region: str | None) -> None:
        happened.append(f"end {session_id}")

    monkeypatch.setattr(aws, "start_port_session", start)
    monkeypatch.setattr(aws, "end_session", end)
    program = tmp_path / tunnel.PLUGIN
    program.write_text(PLUGIN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return happened


NODE = Node(name="head", address="10.0.0.1", instance_id="i-0abc")


def test_through_session_manager_without_its_token_in_the_arguments(session: list[str]) -> None:
    with Tunnel(NODE, PORT, region="eu-west-1") as opened:
        with socket.create_connection(("127.0.0.1", opened.local_port), 5) as connected:
            assert connected.recv(10) == str(PORT).encode()
        lines = [path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert any("i-0abc" in line or "StartSession" in line for line in lines)
        assert not any("session-secret" in line for line in lines)
    assert session == ["start i-0abc eu-west-1", "end s-1"]


def test_without_the_plugin_it_is_told_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which(tunnel.PLUGIN) is None
    with (
        pytest.raises(ClusterError, match=r"session-manager-plugin is not installed.*docs.aws.amazon.com"),
        Tunnel(NODE, PORT),
    ):
        pass

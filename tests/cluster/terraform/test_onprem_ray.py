"""terraform/onprem with Ray on three hosts: one apply, what happens to a cluster in its life, and one destroy.

The tests run in the order of this file: each leaves the cluster as it found it, but the last.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.terraform.test_onprem import Root, root
from tuneyard.cluster.inventory import Inventory, parse_inventory

pytestmark = [pytest.mark.terraform, pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(400)]

FOLDER = "/opt/tuneyard/lab"
SECRET = "not-for-everybody"

ASK = """
import json, sys, urllib.error, urllib.request
headers = json.loads(sys.argv[2])
try:
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=20) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, ""]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""
GCS = """
import sys
from ray._raylet import GcsClient
try:
    print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5.0))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@dataclass
class Cluster:
    """A cluster that an apply has brought up."""

    hosts: Hosts
    root: Root
    said: str
    before: dict[str, set[str]]

    @property
    def inventory(self) -> Inventory:
        return parse_inventory(self.root.terraform("output", "-json", "inventory").stdout, "the output")

    @property
    def token(self) -> str:
        return (self.root.folder / "lab.token").read_text()

    def ask(self, host: str, url: str, token: str | None) -> tuple[int, str]:
        """The status and the text of an HTTP request from a host; status 0: nobody listens."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        done = self.hosts[host].run([sys.executable, "-c", ASK, url, json.dumps(headers)])
        status, text = json.loads(done.stdout)
        return status, text

    def alive(self) -> dict[str, str]:
        """Ray's node ids of the nodes that the head counts as alive, by name."""
        status, text = self.ask("head", "http://127.0.0.1:8265/api/v0/nodes", self.token)
        nodes: list[dict[str, Any]] = json.loads(text)["data"]["result"]["result"] if status == 200 else []
        return {node["node_name"]: node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def status(self, host: str) -> dict[str, Any]:
        done = self.hosts[host].run([sys.executable, "-m", "tuneyard.cluster.node", "status", "--folder", FOLDER])
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("onprem")
    with hosts(folder, ["head", "w1", "w2"]) as made:
        before = {name: set(host.processes().values()) for name, host in made.by_name.items()}
        for host in made.by_name.values():
            secrets = host.folder / "root/.tuneyard/environment"
            secrets.touch(mode=0o600)
            secrets.write_text(f"COMET_API_KEY={SECRET}\n")
        one = root(folder / "root")
        small = {"num_cpus": 1}
        one.variables(
            name="lab", head={"host": made["head"].address, **small}, python=sys.executable, tls=True,
            workers={name: {"host": made[name].address, **small} for name in ("w1", "w2")},
            ssh={"key_file": str(made.keys.client), "known_hosts": str(made.keys.known_hosts)},
            environment_file="/root/.tuneyard/environment", start_within_s=300,
        )  # fmt: skip
        yield Cluster(made, one, one.apply(), before)


def wait_for(what: Callable[[], bool], within_s: float, why: str) -> float:
    """Wait until it is so; returns the seconds that it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < within_s, why
        time.sleep(1.0)
    return time.monotonic() - began


def test_all_nodes_have_joined(cluster: Cluster) -> None:
    assert set(cluster.alive()) == {"head", "w1", "w2"}
    assert cluster.status("w1")["state"] == "up"
    assert [node.name for node in cluster.inventory.nodes] == ["head", "w1", "w2"]


def test_applying_again_changes_nothing(cluster: Cluster) -> None:
    assert cluster.root.planned() == set()


def test_the_dashboard_wants_the_token(cluster: Cluster) -> None:
    for url in ("http://127.0.0.1:8265/api/jobs/", "http://127.0.0.1:8265/api/v0/nodes"):
        assert cluster.ask("head", url, None)[0] == 401
        assert cluster.ask("head", url, "wrong" * 12)[0] == 403
        assert cluster.ask("head", url, cluster.token)[0] == 200


def test_the_dashboard_is_on_loopback_alone(cluster: Cluster) -> None:
    head = cluster.hosts["head"].address
    status, said = cluster.ask("w1", f"http://{head}:8265/api/version", cluster.token)
    assert (status, "refused" in said) == (0, True)


CERTIFICATES = {
    "RAY_USE_TLS": "1",
    "RAY_TLS_SERVER_CERT": f"{FOLDER}/tls/node.crt",
    "RAY_TLS_SERVER_KEY": f"{FOLDER}/tls/node.key",
    "RAY_TLS_CA_CERT": f"{FOLDER}/tls/ca.crt",
}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{FOLDER}/token"}
STRANGER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong" * 12}


def ask_gcs(cluster: Cluster, env: dict[str, str]) -> str:
    address = f"{cluster.hosts['head'].address}:6379"
    return cluster.hosts["w1"].run([sys.executable, "-c", GCS, address], env=env).stdout


def test_ray_itself_wants_the_token(cluster: Cluster) -> None:
    assert ask_gcs(cluster, CERTIFICATES | TOKEN).startswith("[")
    assert "InvalidAuthToken" in ask_gcs(cluster, CERTIFICATES | {"RAY_AUTH_MODE": "disabled"})
    assert "InvalidAuthToken" in ask_gcs(cluster, CERTIFICATES | STRANGER)


def test_ray_itself_wants_a_certificate(cluster: Cluster) -> None:
    said = ask_gcs(cluster, TOKEN)
    assert "RpcError" in said, said
    assert not said.startswith("[")


def test_the_token_is_in_its_files_alone(cluster: Cluster) -> None:
    token = cluster.token
    assert (cluster.root.folder / "lab.token").stat().st_mode & 0o777 == 0o600
    assert token not in cluster.said
    assert token not in "".join(path.read_text() for path in cluster.root.folder.glob("*.tfstate*"))
    for host in cluster.hosts.by_name.values():
        assert (host.folder / FOLDER[1:] / "token").stat().st_mode & 0o777 == 0o600
        assert (host.folder / FOLDER[1:]).stat().st_mode & 0o777 == 0o700
        assert not any(token in line or SECRET in line for line in host.processes().values())
        for path in (host.folder / FOLDER[1:]).rglob("*"):
            if path.is_file() and path.name != "token":
                content = path.read_bytes()
                assert token.encode() not in content, path
                assert SECRET.encode() not in content, path


def test_a_job_has_the_environment_of_its_node(cluster: Cluster) -> None:
    code = "import os, shutil; print(len(os.environ['COMET_API_KEY']), shutil.which('tuneyard'))"
    line = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--", "python", "-c", code]
    done = cluster.hosts["head"].run(
        [str(Path(sys.executable).with_name(line[0])), *line[1:]], timeout_s=170,
        env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{FOLDER}/token"},
    )  # fmt: skip
    assert f"{len(SECRET)} {Path(sys.executable).with_name('tuneyard')}" in done.stdout


def left_of(cluster: Cluster, name: str) -> set[str]:
    """What runs on a host that did not before the cluster."""
    left = set(cluster.hosts[name].processes().values()) - cluster.before[name]
    return {line for line in left if not line.startswith(("sleep", "sshd:"))}


def ray_of(host: Host, word: str) -> int:
    return next(pid for pid, line in host.processes().items() if word in line)


@pytest.mark.parametrize("word", ["raylet/raylet", "cluster.node serve"])
def test_a_worker_that_was_killed_comes_back(cluster: Cluster, word: str) -> None:
    before = cluster.alive()["w1"]
    os.kill(ray_of(cluster.hosts["w1"], word), signal.SIGKILL)
    took_s = wait_for(lambda: cluster.alive().get("w1", before) != before, 120, cluster.status("w1")["reason"])
    print(f"{word} killed: the worker is back after {took_s:.0f} s")  # noqa: T201
    assert set(cluster.alive()) == {"head", "w1", "w2"}


def test_nothing_outlives_the_supervisor(cluster: Cluster) -> None:
    host = cluster.hosts["w2"]
    os.kill(ray_of(host, "cluster.node supervise"), signal.SIGKILL)
    wait_for(lambda: left_of(cluster, "w2") == set(), 60, "processes are left")
    host.run([sys.executable, "-m", "tuneyard.cluster.node", "start", "--folder", FOLDER], timeout_s=200)
    assert set(cluster.alive()) == {"head", "w1", "w2"}


def test_a_worker_comes_back_after_a_reboot(cluster: Cluster) -> None:
    before = cluster.alive()["w1"]
    cluster.hosts["w1"].kill()
    cluster.hosts["w1"].boot()
    took_s = wait_for(lambda: cluster.alive().get("w1", before) != before, 120, "it has not joined again")
    print(f"rebooted: the worker is back after {took_s:.0f} s")  # noqa: T201


def test_workers_join_a_head_that_was_rebooted(cluster: Cluster) -> None:
    cluster.hosts["head"].kill()
    time.sleep(5.0)
    cluster.hosts["head"].boot()
    took_s = wait_for(lambda: set(cluster.alive()) == {"head", "w1", "w2"}, 180, "the cluster is not whole again")
    print(f"the head was rebooted: the cluster is whole after {took_s:.0f} s")  # noqa: T201


def test_a_worker_waits_for_its_head_and_says_so(cluster: Cluster) -> None:
    head, worker = cluster.hosts["head"], cluster.hosts["w1"]
    head.kill()
    os.kill(ray_of(worker, "raylet/raylet"), signal.SIGKILL)
    wait_for(lambda: cluster.status("w1")["state"] == "waiting", 60, "it does not wait")
    assert f"the head does not answer at {head.address}:6379" in cluster.status("w1")["reason"]
    head.boot()
    wait_for(lambda: set(cluster.alive()) == {"head", "w1", "w2"}, 180, "the cluster is not whole again")


def test_a_drained_worker_stays_away_until_it_is_started(cluster: Cluster) -> None:
    node = [sys.executable, "-m", "tuneyard.cluster.node"]
    cluster.hosts["w2"].run([*node, "drain", "--folder", FOLDER, "--reason", "maintenance"])
    wait_for(lambda: cluster.status("w2")["state"] == "drained", 60, "it does not leave")
    assert cluster.status("w2")["reason"] == "maintenance"
    time.sleep(5.0)
    assert set(cluster.alive()) == {"head", "w1"}
    cluster.hosts["w2"].run([*node, "start", "--folder", FOLDER])
    assert set(cluster.alive()) == {"head", "w1", "w2"}


def test_destroy_leaves_nothing(cluster: Cluster) -> None:
    cluster.root.destroy()
    for name, host in cluster.hosts.by_name.items():
        assert left_of(cluster, name) == set()
        assert list((host.folder / "opt/tuneyard").iterdir()) == []
        assert not [path for path in (host.folder / "var/spool/cron").rglob("*") if path.is_file()]
    assert not (cluster.root.folder / "lab.token").exists()

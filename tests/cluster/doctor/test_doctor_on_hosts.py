"""The doctor on real hosts: the network between them measured, a broken link named, and Ray looked at."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, hosts
from tests.cluster.node_files import write_config
from tuneyard.cluster.doctor.findings import Finding, Report, Result
from tuneyard.cluster.doctor.links import LinksReply, LinksRequest
from tuneyard.cluster.doctor.network import ask_links, check_network, judge_links
from tuneyard.cluster.doctor.nodes import ask_all, over_ssh
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.launch.doctor.command import examine_cluster
from tuneyard.launch.doctor.here import Examination

pytestmark = pytest.mark.hosts

FOLDER = Path("/opt/tuneyard/lab")
SECRET = "0123456789abcdef" * 4


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Hosts]:
    with hosts(tmp_path, ["head", "w1"]) as made:
        yield made


def nodes_of(made: Hosts) -> list[Node]:
    return [
        Node(name=host.name, address=host.address, ssh=Ssh(
            host=host.address, key_file=made.keys.client, known_hosts=made.keys.known_hosts
        ))
        for host in made.by_name.values()
    ]  # fmt: skip


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def configure(made: Hosts, environment_file: Path | None = None) -> None:
    """What whoever provisions the nodes writes there."""
    for name, host in made.by_name.items():
        folder = host.folder / str(FOLDER)[1:]
        folder.mkdir(mode=0o700)
        role = "head" if name == "head" else "worker"
        head = "" if role == "head" else made["head"].address
        config = NodeConfig(
            cluster="lab", role=role, name=name, address=host.address, head=head, kind="onprem", num_cpus=1,
            environment_file=environment_file,
        )  # fmt: skip
        write_config(folder, config)
        (folder / "token").write_text(SECRET)
        (folder / "token").chmod(0o600)


def inventory_of(made: Hosts, tmp_path: Path) -> Inventory:
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    head, *workers = nodes_of(made)
    return Inventory(
        name="lab", kind="onprem", version="0", head=head, workers=workers, token=Token(file=token),
        python=sys.executable, folder=str(FOLDER),
    )  # fmt: skip


@pytest.mark.slow
def test_the_network_between_two_hosts_is_measured(made: Hosts) -> None:
    """w1 sends through a bottleneck; what comes to it does not."""
    configure(made)
    bottleneck = ["rate", "80mbit", "burst", "64kb", "latency", "50ms"]
    made["w1"].run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *bottleneck])
    found = by_name(list(check_network(nodes_of(made), sys.executable, FOLDER, "gloo", over_ssh)))
    assert found["links"].result is Result.OK, found["links"].found
    assert found["clocks"].result is Result.OK, found["clocks"].found
    assert found["bandwidth"].result is Result.WARNING, found["bandwidth"].found
    assert "slow: w1 → head" in found["bandwidth"].found
    links = {(one["from"], one["to"]): one["bytes_per_s"] for one in found["bandwidth"].data["links"]}
    assert links.keys() == {("head", "w1"), ("w1", "head")}
    assert 4e6 < links["w1", "head"] < 11e6  # 80 Mbit/s
    assert links["head", "w1"] > 2 * links["w1", "head"]


def test_hosts_that_do_not_reach_each_other_are_named(made: Hosts) -> None:
    made["head"].run(["ip", "route", "add", "blackhole", made["w1"].address])
    nodes = nodes_of(made)
    requests = {
        node.name: LinksRequest(
            address=node.address, others={other.name: other.address for other in nodes if other is not node},
            port=23456, wait_s=1.5,
        )
        for node in nodes
    }  # fmt: skip
    replies = ask_all(
        requests, nodes, [sys.executable, "-m", "tuneyard.cluster.doctor.links"], LinksReply, over_ssh, 60.0
    )
    broken: dict[tuple[str, str], str] = {}
    for name, reply in replies.items():
        assert isinstance(reply, LinksReply)
        broken |= {(name, other): link.error for other, link in reply.links.items() if link.error is not None}
    found = judge_links(["head", "w1"], broken, {})
    assert found.result is Result.FAILURE
    assert "head → w1: " in found.found
    assert "w1 → head: no answer" in found.found


@pytest.mark.slow
def test_a_host_that_is_gone_does_not_take_part(made: Hosts) -> None:
    nodes = nodes_of(made)
    made["w1"].kill()
    links, silent = ask_links(nodes, sys.executable, over_ssh)
    assert "cannot be reached over SSH" in silent["w1"]
    assert links["head"].links["w1"].error is not None


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(900)
def test_a_cluster_with_ray_and_a_store(made: Hosts, tmp_path: Path) -> None:
    with SeaweedServer(tmp_path / "seaweedfs", host=made.gateway) as server:
        server.create_bucket("lab")
        keys = tmp_path / "environment"
        keys.write_text(f"AWS_ACCESS_KEY_ID={server.access_key}\nAWS_SECRET_ACCESS_KEY={server.secret_key}\n")
        keys.chmod(0o600)
        configure(made, keys)
        store = {"store": "s3://lab/runs", "endpoint_url": server.endpoint_url}
        inventory = inventory_of(made, tmp_path).model_copy(update=store)
        reports = with_ray(made, lambda: examine_cluster(inventory, Examination(comet_mode="off"), over_ssh))
        assert server.secret_key not in str(reports)
    assert SECRET not in str(reports)
    found = {report.machine: by_name(report.findings) for report in reports}
    assert found["this machine"]["same packages"].result is Result.OK
    for name in ("head", "w1"):
        assert found[name]["Ray"].result is Result.OK
        assert found[name]["Ray's token"].result is Result.OK
        assert "8265" not in found[name]["open ports"].found
        assert [one.result for title, one in found[name].items() if title.startswith("S3: ")] == [Result.OK] * 8
    assert found["head"]["Ray's dashboard"].found == "401 without the token, 200 with it; 2 nodes in Ray"
    assert found["between the nodes"]["Ray's nodes"].found == "2 nodes, 2 CPUs, 0 GPUs"
    assert found["between the nodes"]["links"].result is Result.OK


def with_ray(made: Hosts, look: Callable[[], list[Report]]) -> list[Report]:
    """What is seen while Ray runs on all hosts."""
    program = [sys.executable, "-m", "tuneyard.cluster.node"]
    try:
        for name in ("head", "w1"):
            made[name].run([*program, "start", "--folder", str(FOLDER), "--within-s", "300"], timeout_s=330.0)
        return look()
    finally:
        for name in ("w1", "head"):
            made[name].run([*program, "stop", "--folder", str(FOLDER)], check=False, timeout_s=120.0)


@pytest.mark.slow
def test_a_node_that_is_away_is_a_finding_and_not_the_end(made: Hosts, tmp_path: Path) -> None:
    configure(made)
    shutil.rmtree(made["head"].folder / str(FOLDER)[1:])
    made["w1"].kill()
    reports = examine_cluster(inventory_of(made, tmp_path), Examination(comet_mode="off"), over_ssh)
    found = {report.machine: by_name(report.findings) for report in reports}
    assert found["w1"]["reached"].result is Result.FAILURE
    assert "is no node of that cluster" in found["head"]["node's settings"].found
    assert found["between the nodes"]["links"].result is Result.NOT_APPLICABLE

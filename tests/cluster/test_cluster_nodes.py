import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node_files import write_config
from tuneyard.cluster import nodes
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token
from tuneyard.cluster.node import listing
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.gcs import RayNode
from tuneyard.cluster.nodes import Dashboard, ask_head, read_nodes

LAB = Inventory(
    name="lab", kind="onprem", version="1", python="/usr/bin/python3", folder="/opt/tuneyard/lab", token=Token(),
    head=Node(name="head", address="10.0.0.1", ssh=Ssh(host="10.0.0.1")),
    workers=[Node(name=name, address=f"10.0.0.{index}") for index, name in enumerate(("w1", "w2", "w3"), 2)],
)  # fmt: skip


def raylet(node: str, address: str, state: str = "ALIVE") -> dict[str, Any]:
    return {
        "nodeId": node, "nodeManagerAddress": address, "nodeName": "", "state": state, "isHeadNode": node == "a",
        "resourcesTotal": {"CPU": 4.0},
    }  # fmt: skip


def test_nodes_are_what_ray_has_and_what_the_inventory_misses() -> None:
    told = Dashboard(
        [raylet("b", "10.0.0.2"), raylet("a", "10.0.0.1"), raylet("c", "10.0.0.3", "DEAD"), raylet("x", "10.0.0.9")],
        {"b": {"CPU": [1.0, 4.0]}},
    )
    states = {"10.0.0.1": "idle", "10.0.0.2": "draining", "10.0.0.3": "left"}
    found = read_nodes(told, states, LAB)
    assert [(node.name, node.state, node.cpus_used, node.note) for node in found] == [
        ("head", "idle", None, ""),
        ("10.0.0.9", "idle", None, "not of the cluster any more"),
        ("w1", "draining", 1.0, ""),
        ("w2", "away", None, "drained; tuneyard drain w2 --undo brings it back"),
        ("w3", "away", None, "not among Ray's nodes"),
    ]
    assert [node.head for node in found] == [True, False, False, False, False]


def test_without_the_heads_own_word_use_alone_counts() -> None:
    told = Dashboard([raylet("b", "10.0.0.2")], {"b": {"CPU": [1.0, 4.0]}})
    assert [(node.name, node.state) for node in read_nodes(told, {}, LAB)][2:] == [("w2", "away"), ("w3", "away")]
    assert [node.state for node in read_nodes(told, {}, LAB) if node.name == "w1"] == ["busy"]


def test_a_node_that_ray_still_lists_is_away_when_the_head_knows_better() -> None:
    told = Dashboard([raylet("b", "10.0.0.2")], {})
    (found,) = (node for node in read_nodes(told, {"10.0.0.2": "lost"}, LAB) if node.name == "w1")
    assert (found.state, found.note) == ("away", "lost; it joins again when it is back")


def test_a_node_that_has_just_come_back_is_there_before_the_dashboard_knows() -> None:
    told = Dashboard([raylet("b", "10.0.0.2", "DEAD")], {})
    (found,) = (node for node in read_nodes(told, {"10.0.0.2": "idle"}, LAB) if node.name == "w1")
    assert (found.state, found.cpus, found.note) == ("idle", None, "")


def test_a_worker_of_a_group_is_known_by_its_address_until_the_dashboard_has_its_name() -> None:
    found = read_nodes(Dashboard([], {}), {"10.0.0.7": "busy", "10.0.0.8": "lost"}, LAB)
    assert [(node.name, node.state) for node in found if node.address.endswith(("7", "8"))] == [("10.0.0.7", "busy")]


def test_what_the_listing_prints_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gcs:
        def nodes(self) -> list[RayNode]:
            return [
                RayNode("1", "w1", "10.0.0.2", False, "lost"),
                RayNode("2", "head", "10.0.0.1", True, "idle", 3.0),
                RayNode("3", "w1", "10.0.0.2", False, "busy"),
            ]

        def close(self) -> None:
            return

    write_config(tmp_path, NodeConfig(cluster="lab", role="head", name="head", kind="onprem"))
    monkeypatch.setattr(listing, "connect", lambda config, folder: Gcs())
    monkeypatch.setattr(sys, "argv", ["listing", "--folder", str(tmp_path)])
    assert listing.main() == 0
    printed = capsys.readouterr().out

    def run_on(ssh: Ssh, line: list[str], *, timeout_s: float) -> str:
        assert line == ["/usr/bin/python3", "-m", "tuneyard.cluster.node.listing", "--folder", "/opt/tuneyard/lab"]
        return printed

    monkeypatch.setattr(nodes, "run_on", run_on)
    assert ask_head(LAB) == {"10.0.0.1": "idle", "10.0.0.2": "busy"}, "of one address the newest counts"


def test_a_head_without_a_way_to_it_is_told() -> None:
    lost = LAB.model_copy(update={"head": Node(name="head", address="10.0.0.1")})
    with pytest.raises(ClusterError, match="neither ssh nor an instance id"):
        ask_head(lost)

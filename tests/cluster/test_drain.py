"""Which node is meant, what it is told, and how long it is waited for."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tuneyard.cluster.drain import bring_back, find_node, order_drain, wait_until_left
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token

PLAIN: dict[str, Any] = {
    "name": "lab", "kind": "onprem", "version": "0", "token": Token(), "python": "/opt/env/bin/python",
    "folder": "/opt/tuneyard/lab", "head": Node(name="head", address="10.0.0.1", ssh=Ssh(host="h")),
    "workers": [
        Node(name="w1", address="10.0.0.2", ssh=Ssh(host="h1")),
        Node(name="w2", address="10.0.0.3", ssh=Ssh(host="h2")),
    ],
}  # fmt: skip
LAB = Inventory(**PLAIN)


class Machine:
    """What was run on which host, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
        self.ran: list[tuple[str, str]] = []
        self._states = list(states)
        monkeypatch.setattr("tuneyard.cluster.drain.run_on", self._run_on)

    def _run_on(self, ssh: Ssh, command: Sequence[str], *, timeout_s: float = 60.0) -> str:
        self.ran.append((ssh.host, " ".join(command)))
        return json.dumps({"state": self._states.pop(0)}) if "status" in command else ""


@pytest.mark.parametrize("wanted", ["w2", "10.0.0.3"])
def test_a_node_is_found_by_its_name_and_its_address(wanted: str) -> None:
    assert find_node(LAB, wanted).name == "w2"


def test_a_mistyped_node_gets_the_nearest() -> None:
    with pytest.raises(ClusterError, match=r"Cluster lab has no node 'w22'\. Did you mean 'w2'\? Allowed: w1, w2\."):
        find_node(LAB, "w22")


@pytest.mark.parametrize("wanted", ["head", "10.0.0.1"])
def test_the_head_is_refused(wanted: str) -> None:
    with pytest.raises(ClusterError, match="is the head, which cannot be drained"):
        find_node(LAB, wanted)


def test_the_node_is_told_over_ssh_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, told = Machine(monkeypatch, "up", "up", "drained"), list[float]()
    node = find_node(LAB, "w1")
    order_drain(LAB, node, 90.0)
    wait_until_left(LAB, node, 90.0, told.append, poll_s=0.0)
    program, folder = "/opt/env/bin/python -m tuneyard.cluster.node", "--folder /opt/tuneyard/lab"
    assert machine.ran == [
        ("h1", f"{program} drain --within-s 90 {folder}"), *[("h1", f"{program} status {folder}")] * 3,
    ]  # fmt: skip
    assert len(told) == 2


def test_without_a_time_the_node_is_told_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    order_drain(LAB, find_node(LAB, "w1"), None)
    assert machine.ran == [("h1", "/opt/env/bin/python -m tuneyard.cluster.node drain --folder /opt/tuneyard/lab")]


def test_what_keeps_on_working_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, "up", "up")
    monkeypatch.setattr("tuneyard.cluster.drain.GRACE_S", -1.0)
    with pytest.raises(ClusterError, match="w1 still has work 0 s after it was told to leave"):
        wait_until_left(LAB, find_node(LAB, "w1"), 0.0, lambda seconds: None)


def test_a_drained_node_comes_back_by_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    bring_back(LAB, find_node(LAB, "w1"))
    assert machine.ran == [("h1", "/opt/env/bin/python -m tuneyard.cluster.node start --folder /opt/tuneyard/lab")]


def test_machines_of_a_group_are_found_by_their_instance_id(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [
        SimpleNamespace(id="i-1", state="running", group="lab-a", address="10.0.1.7"),
        SimpleNamespace(id="i-2", state="terminated", group="lab-a", address="10.0.1.8"),
    ]
    monkeypatch.setattr("tuneyard.cluster.aws.instances", lambda cluster, region: there)
    ran = list[tuple[str, str]]()

    def run_on_instance(instance: str, line: str, region: str | None) -> str:
        ran.append((instance, line))
        return ""

    monkeypatch.setattr("tuneyard.cluster.aws.run_on_instance", run_on_instance)
    aws = Inventory(**PLAIN | {"kind": "aws", "workers": []})
    for wanted in ("i-1", "10.0.1.7", "ip-10-0-1-7"):
        assert find_node(aws, wanted).instance_id == "i-1"
    with pytest.raises(ClusterError, match="no node 'i-2'"):
        find_node(aws, "i-2")
    order_drain(aws, find_node(aws, "i-1"), 60.0)
    assert ran == [
        ("i-1", "/opt/env/bin/python -m tuneyard.cluster.node drain --within-s 60 --folder /opt/tuneyard/lab")
    ]

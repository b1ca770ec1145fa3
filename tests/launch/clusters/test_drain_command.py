"""`tuneyard drain` as its user sees it; the node itself is a table of answers."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token
from tuneyard.launch.main import app

LAB = Inventory(
    name="lab", kind="onprem", version="0", token=Token(), python="python", folder="/opt/tuneyard/lab",
    head=Node(name="head", address="10.0.0.1", ssh=Ssh(host="h")),
    workers=[Node(name="w1", address="10.0.0.2", ssh=Ssh(host="h1"))],
)  # fmt: skip


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was run on the node, which has left at the third look."""
    lines: list[list[str]] = []
    states = ["up", "up", "drained"]

    def run_on(ssh: Ssh, command: Sequence[str], *, timeout_s: float = 60.0) -> str:
        lines.append(list(command[3:-2]))
        return json.dumps({"state": states.pop(0)}) if "status" in command else ""

    monkeypatch.setattr("tuneyard.cluster.drain.run_on", run_on)
    monkeypatch.setattr("tuneyard.cluster.drain.time.sleep", lambda seconds: None)
    monkeypatch.setattr(
        "tuneyard.launch.clusters.drain_command.find_cluster", lambda name: SimpleNamespace(inventory=lambda: LAB)
    )
    return lines


def drain(*words: str) -> str:
    done = CliRunner().invoke(app, ["drain", *words])
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.mark.parametrize(("words", "told"), [([], []), (["--within", "30"], ["--within-s", "30"])])
def test_the_node_is_drained_and_waited_for(words: list[str], told: list[str], ran: list[list[str]]) -> None:
    said = drain("w1", *words)
    assert ran == [["drain", *told], ["status"], ["status"], ["status"]]
    assert "w1 gets no new work." in said
    assert "w1 has left, 0 s later." in said
    assert "tuneyard drain w1 --undo" in said


def test_undo_starts_its_service(ran: list[list[str]]) -> None:
    assert drain("w1", "--undo") == "w1 is back and takes work again.\n"
    assert ran == [["start"]]


def test_the_head_is_refused(ran: list[list[str]]) -> None:
    with pytest.raises(ClusterError, match="is the head, which cannot be drained"):
        drain("head")
    assert ran == []

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tuneyard.cluster.aws import Activity, Instance
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.money.machines import Fleet, Part
from tuneyard.cluster.money.spending import mark
from tuneyard.cluster.private_files import write_private
from tuneyard.cluster.provision.clusters import make_cluster
from tuneyard.launch.clusters import status_command
from tuneyard.launch.clusters.app import app


def ago(**past: float) -> datetime.datetime:
    """Of a test's own now: a whole run of tests takes longer than an amount of money may be off."""
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**past)


LAB = {
    "name": "lab", "kind": "onprem", "version": "0.1.0", "head": {"name": "head", "address": "10.0.0.1"},
    "workers": [{"name": "w1", "address": "10.0.0.2"}, {"name": "w2", "address": "10.0.0.3"}],
    "token": {"file": "/none"}, "python": "/usr/bin/python3", "folder": "/opt/tuneyard/lab", "format": 1,
}  # fmt: skip
CLOUD = LAB | {
    "kind": "aws", "region": "eu-central-1", "workers": [], "head_machine": "m7i.xlarge",
    "groups": [{"name": "gpu", "machines": ["g6.xlarge"], "count": 2, "autoscaling_group": "asg"}],
}  # fmt: skip


def raylet(node: str, address: str, state: str = "ALIVE", **total: float) -> dict[str, Any]:
    """As Ray 2.60's dashboard tells of a node."""
    return {"raylet": {
        "nodeId": node, "nodeManagerAddress": address, "nodeName": node, "state": state, "isHeadNode": node == "head",
        "resourcesTotal": {"memory": 1e9, **total},
    }}  # fmt: skip


class Head:
    """What the head of Ray answers."""

    def __init__(self) -> None:
        self.jobs = [{
            "type": "SUBMISSION", "submission_id": "sweep-1", "status": "RUNNING", "entrypoint": "tuneyard tune e.yaml",
            "metadata": {}, "start_time": ago(seconds=90).timestamp() * 1000, "end_time": None,
        }]  # fmt: skip
        self.nodes = [
            raylet("head", "10.0.0.1", CPU=4.0),
            raylet("w1", "10.0.0.2", CPU=8.0, GPU=2.0),
            raylet("old", "10.0.0.9", state="DEAD"),
        ]
        self.states = {"10.0.0.1": "idle", "10.0.0.2": "draining", "10.0.0.3": "left", "10.0.0.9": "lost"}
        self.usage = {"w1": {"CPU": [6.0, 8.0], "GPU": [1.0, 2.0]}}

    def get(self, path: str, *, timeout_s: float = 10.0) -> Any:
        answers = {
            "/nodes?view=summary": {"data": {"summary": self.nodes}},
            "/api/cluster_status": {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": self.usage}}}},
            "/api/jobs/": self.jobs,
        }
        return answers[path]


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setenv("HOME", str(tmp_path))
    answering = Head()

    @contextmanager
    def connected(inventory: Inventory) -> Iterator[Head]:
        yield answering

    monkeypatch.setattr(status_command, "connect", connected)
    monkeypatch.setattr(status_command, "ask_head", lambda inventory: answering.states)
    return answering


def made(plain: dict[str, Any]) -> Path:
    cluster = make_cluster("lab", plain["kind"])
    write_private(cluster.inventory_file, json.dumps(plain))
    return cluster.folder


def status(*words: str) -> Result:
    return CliRunner().invoke(app, ["status", *words], catch_exceptions=False, env={"COLUMNS": "80"})


@pytest.mark.usefixtures("head")
def test_nodes_and_jobs_are_shown_and_who_is_away() -> None:
    made(LAB)
    shown = status()
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["head", "idle", "10.0.0.1", "?", "of", "4", "-"] in lines
    assert ["w1", "draining", "10.0.0.2", "6", "of", "8", "1", "of", "2"] in lines
    assert ["w2", "away", "10.0.0.3", "-", "-", "drained;", "tuneyard", "drain", "w2"] in lines
    assert "old" not in shown.output
    assert [line[1] for line in lines if line and line[0] == "sweep-1"] == ["running"]
    assert "what it has cost is not known" in shown.output
    assert shown.exit_code == 0


@pytest.mark.usefixtures("head")
def test_own_machines_cost_what_the_users_prices_say(tmp_path: Path) -> None:
    folder = made(LAB)
    mark(folder, Fleet((Part("workers", (), 2, nodes=("w1", "w2")),)), ago(hours=10))
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "as_of: 2026-01-01\nsource: mine\ncurrency: EUR\nelectricity: {kwh: 0.3}\nown: [{node: 'w*', watts: 500}]\n"
    )
    told = json.loads(status("--prices", str(prices), "--json").output)
    assert told["spent"]["money"] == pytest.approx(2 * 10 * 0.15, rel=0.01)
    assert told["hour"] == pytest.approx(0.3)
    assert told["nodes"][1]["gpus_used"] == 1.0
    assert "spent about 3.00 EUR; now 0.30 EUR an hour" in status("--prices", str(prices)).output


@pytest.mark.usefixtures("head")
def test_machines_in_aws_are_paid_for_whether_they_joined_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made(CLOUD)
    start = ago(hours=2)

    def machine(name: str, kind: str, address: str, group: str | None, *, spot: bool) -> Instance:
        return Instance(name, kind, "running", start, None, spot, group, address)

    found = [
        machine("i-head", "m7i.xlarge", "10.0.0.1", None, spot=False),
        machine("i-1", "g6.xlarge", "10.0.0.2", "asg", spot=True),
        machine("i-2", "g6.xlarge", "10.0.0.7", "asg", spot=True),
    ]
    gone = [
        Activity("asg", "i-0", True, ago(hours=30)),
        Activity("asg", "i-0", False, ago(hours=20)),
    ]
    monkeypatch.setattr(status_command, "instances", lambda name, region: found)
    monkeypatch.setattr(status_command, "activities", lambda groups, region: gone)
    told = json.loads(status("--json").output)
    assert told["hour"] == pytest.approx(0.2016 + 2 * 0.41)
    assert told["spent"]["money"] == pytest.approx(2 * 0.2016 + 2 * 2 * 0.41 + 10 * 0.805, rel=0.01)
    notes = {node["name"]: node["note"] for node in told["nodes"]}
    assert notes == {
        "head": "m7i.xlarge", "w1": "g6.xlarge on spot", "i-2": "g6.xlarge on spot, running, not among Ray's nodes",
    }  # fmt: skip


def test_a_head_that_does_not_answer_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = made(LAB)  # its token's file is missing
    mark(folder, Fleet((Part("workers", (), 2, nodes=("w1", "w2")),)), ago(hours=10))
    shown = status()
    assert shown.exit_code == 1
    assert "! the head does not tell: The token of cluster lab cannot be read" in shown.output
    assert "20.0 machine-hours" in shown.output


@pytest.mark.usefixtures("head")
def test_a_cluster_that_is_not_there_is_told() -> None:
    with pytest.raises(ClusterError, match="There is no cluster"):
        status()

"""One program on several nodes: how it is brought there, and what comes back."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tuneyard.cluster.doctor.findings import Report
from tuneyard.cluster.doctor.nodes import ask_all, over_ssh, runner
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Token

HEAD = Node(name="head", address="10.0.0.1", instance_id="i-1")
INVENTORY = Inventory(
    name="lab", kind="aws", version="0", region="eu-west-1", head=HEAD, token=Token(file=Path("token")),
    python="python", folder="/opt/tuneyard/lab",
)  # fmt: skip
REPORT = Report(machine="it's 5 % of $HOME", findings=[])


def test_a_request_goes_through_systems_manager_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_on_instance(instance_id: str, line: str, region: str | None) -> str:
        assert (instance_id, region) == ("i-1", "eu-west-1")
        return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr("tuneyard.cluster.aws.run_on_instance", run_on_instance)
    assert ask_all({"head": REPORT}, [HEAD], ["cat"], Report, runner(INVENTORY), 10.0) == {"head": REPORT}


def test_a_node_without_any_way_to_it() -> None:
    with pytest.raises(ClusterError, match="neither ssh nor an instance id"):
        over_ssh(Node(name="w1", address="10.0.0.2"), ["true"], "", 1.0)


@pytest.mark.parametrize("said", ["", "hello", '{"machine": "another version"}'])
def test_an_answer_that_is_none_is_told(said: str) -> None:
    def run(node: Node, command: Sequence[str], stdin: str, timeout_s: float) -> str:
        return said

    answer = ask_all({"head": REPORT}, [HEAD], ["doctor"], Report, run, 1.0)["head"]
    assert isinstance(answer, ClusterError)
    assert "head answers what this tuneyard does not understand" in str(answer)

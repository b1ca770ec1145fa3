"""Which notice drains the node, when, and what follows."""

import json
import threading
from typing import Any

import pytest

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.metadata import Metadata
from tuneyard.cluster.node.preemption import Notice, Notices, PreemptionWatch, drain_here
from tuneyard.cluster.node.watchers import start_watchers

NOW = 1795335600.0
SPOT = json.dumps({"action": "terminate", "time": "2026-11-22T08:22:00Z"})


class Told(Metadata):
    """A metadata service with what it is given."""

    def __init__(self, **said: str) -> None:
        super().__init__()
        self.said = {path.replace("__", "/").replace("_", "-"): text for path, text in said.items()}

    def get(self, path: str) -> str | None:
        return self.said.get(path)


def look(**said: str) -> Notice | None:
    return Notices(Told(**said), lambda: NOW).look()


def test_a_spot_notice_has_the_seconds_that_are_left() -> None:
    assert look(spot__instance_action=SPOT) == Notice("EC2 takes this spot instance at 08:22:00 UTC", 120.0)


def test_a_notice_whose_time_is_over_still_drains() -> None:
    late = Notices(Told(spot__instance_action=SPOT), lambda: NOW + 500.0).look()
    assert late is not None
    assert late.within_s == 1.0


def test_the_groups_order_has_no_time_of_its_own() -> None:
    found = look(autoscaling__target_lifecycle_state="Terminated")
    assert found == Notice("the autoscaling group ends this instance", None, of_group=True)


@pytest.mark.parametrize("state", ["InService", "Standby", "Warmed:Stopped"])
def test_other_states_of_the_group_are_no_notice(state: str) -> None:
    assert look(autoscaling__target_lifecycle_state=state) is None


def test_a_rebalance_recommendation_drains_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(Told(events__recommendations__rebalance="{}"), lambda: NOW)
    assert [notices.look(), notices.look()] == [None, None]
    assert len([line for line in caplog.messages if "likely to be taken soon" in line]) == 1


def test_a_notice_is_told_once() -> None:
    notices = Notices(Told(spot__instance_action=SPOT), lambda: NOW)
    assert [notices.look() is None, notices.look() is None] == [False, True]


class Node:
    """What a watch does to its node; the head refuses so many orders."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals, self.drained = refusals, list[tuple[float | None, str]]()
        self.done, self.released = threading.Event(), threading.Event()

    def drain(self, within_s: float | None, reason: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ClusterError("Ray's head does not answer")
        self.drained.append((within_s, reason))
        self.done.set()


def watch(node: Node, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> PreemptionWatch:
    monkeypatch.setattr("tuneyard.cluster.node.preemption.RETRY_S", 0.01)
    made = PreemptionWatch(Notices(metadata, lambda: NOW), node.drain, node.released.set, poll_s=0.01)
    made.start()
    return made


def test_the_watch_drains_within_the_notices_time_and_tries_until_the_head_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(refusals=3)
    watch(node, Told(spot__instance_action=SPOT), monkeypatch)
    assert node.done.wait(10.0)
    [(within_s, reason)] = node.drained
    assert within_s is not None
    assert 110.0 < within_s < 120.0
    assert reason == "EC2 takes this spot instance at 08:22:00 UTC"
    assert not node.released.wait(0.2)


def test_the_group_hears_when_it_may_end_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    watch(node, Told(autoscaling__target_lifecycle_state="Terminated"), monkeypatch)
    assert node.released.wait(10.0)
    assert node.drained == [(None, "the autoscaling group ends this instance")]


def test_a_silent_service_is_told_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node, metadata = Node(), Told(spot__instance_action=SPOT)
    silent = threading.Event()
    get, calls = metadata.get, list[str]()

    def sometimes(path: str) -> str | None:
        calls.append(path)
        if len(calls) < 5:
            raise ClusterError("The metadata service does not answer")
        silent.set()
        return get(path)

    monkeypatch.setattr(metadata, "get", sometimes)
    watch(node, metadata, monkeypatch)
    assert node.done.wait(10.0)
    assert silent.is_set()
    assert len([line for line in caplog.messages if "no notice of a preemption can be seen" in line]) == 1


def config(**changes: Any) -> NodeConfig:
    return NodeConfig.model_validate({"cluster": "lab", "role": "worker", "head": "10.0.0.1", "kind": "aws"} | changes)


def test_the_head_is_not_drained(tmp_path: Any) -> None:
    with pytest.raises(ClusterError, match=r"The head cannot be drained: its jobs, which drive the sweeps"):
        drain_here(config(role="head", head=""), tmp_path)
    assert not NodeFolder(tmp_path).drained.exists()


def test_machines_of_ones_own_have_nobody_to_ask(tmp_path: Any) -> None:
    assert start_watchers(config(kind="onprem", idle_minutes=5), tmp_path) == []

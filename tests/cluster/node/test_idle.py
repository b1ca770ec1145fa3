"""When a machine without work leaves, and when it does not."""

from pathlib import Path
from typing import Any

import pytest

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.gcs import BusyError, NodeState, RayNode, Reason
from tuneyard.cluster.node.idle import IdleHead, IdleWatch, IdleWorker

CONFIG = NodeConfig(
    cluster="lab", role="worker", name="w1", address="10.0.0.2", head="10.0.0.1", kind="aws", idle_minutes=10
)
HEAD = RayNode("00", "head", "10.0.0.1", True, "idle", 9999.0)


class Head:
    """Ray's head, with what it is told to say."""

    def __init__(self, *nodes: RayNode, jobs: int = 0, refuses: ClusterError | None = None) -> None:
        self.there, self.jobs, self.refuses = [HEAD, *nodes], jobs, refuses
        self.drained: list[tuple[str, Reason]] = []

    def nodes(self) -> list[RayNode]:
        return self.there

    def running_jobs(self) -> int:
        return self.jobs

    def drain(self, node_id: str, reason: Reason, message: str, within_s: float | None = None) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.drained.append((node_id, reason))


def worker(state: NodeState = "idle", idle_s: float = 0.0, node_id: str = "01", name: str = "w1") -> RayNode:
    return RayNode(node_id, name, "10.0.0.2", False, state, idle_s)


@pytest.fixture
def place(tmp_path: Path) -> NodeFolder:
    (tmp_path / "run").mkdir()
    return NodeFolder(tmp_path)


@pytest.mark.parametrize(
    ("node", "leaves"),
    [(worker(idle_s=599.0), False), (worker(idle_s=600.0), True), (worker("busy"), False), (worker("draining"), False)],
)
def test_a_worker_leaves_after_its_minutes_without_work(place: NodeFolder, node: RayNode, leaves: bool) -> None:
    head = Head(node)
    assert IdleWorker(CONFIG, place, 10.0).leaves(head) == leaves
    assert head.drained == ([("01", "idle")] if leaves else [])
    assert place.drained.exists() == leaves


def test_work_that_came_in_the_last_moment_keeps_it(place: NodeFolder) -> None:
    head = Head(worker(idle_s=700.0), refuses=BusyError("no longer idle"))
    assert not IdleWorker(CONFIG, place, 10.0).leaves(head)
    assert not place.drained.exists()


def test_a_head_that_does_not_answer_is_told_and_nothing_left_behind(place: NodeFolder) -> None:
    with pytest.raises(ClusterError, match="no answer"):
        IdleWorker(CONFIG, place, 10.0).leaves(Head(worker(idle_s=700.0), refuses=ClusterError("no answer")))
    assert not place.drained.exists()


def test_its_newest_ray_counts_and_not_one_of_before(place: NodeFolder) -> None:
    before, now, other = worker(idle_s=700.0, node_id="01"), worker("busy", node_id="02"), worker(idle_s=9e9, name="w2")
    assert not IdleWorker(CONFIG, place, 10.0).leaves(Head(before, now, other))


def test_a_node_that_was_drained_and_has_left_ends_its_machine(place: NodeFolder) -> None:
    assert not IdleWorker(CONFIG, place, 10.0).leaves(Head(worker("lost")))
    place.mark_drained("by hand")
    assert IdleWorker(CONFIG, place, 10.0).leaves(Head(worker("left")))


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def minutes_until_the_head_leaves(head: Head, disturb: dict[int, Any]) -> int | None:
    """A look each minute; `disturb`: what happens at which one."""
    clock, idle = Clock(), IdleHead(5.0, clock=lambda: clock.now)
    for minute in range(60):
        disturb.get(minute, lambda: None)()
        if idle.leaves(head):
            return minute
        clock.now += 60.0
    return None


def test_the_head_leaves_when_the_last_worker_has_been_gone_for_so_long() -> None:
    head = Head(worker("idle"))
    assert minutes_until_the_head_leaves(head, {10: lambda: head.there.pop()}) == 15


def test_a_job_keeps_the_head_and_its_time_begins_anew() -> None:
    head = Head(jobs=0)
    begins, ends = (lambda: setattr(head, "jobs", 1)), (lambda: setattr(head, "jobs", 0))
    assert minutes_until_the_head_leaves(head, {3: begins, 9: ends}) == 14
    assert minutes_until_the_head_leaves(Head(jobs=1), {}) is None


def test_time_in_which_the_head_could_not_be_asked_does_not_count() -> None:
    clock, head = Clock(), Head()
    idle = IdleHead(5.0, clock=lambda: clock.now)
    assert not idle.leaves(head)
    head.nodes = lambda: (_ for _ in ()).throw(ClusterError("away"))  # type: ignore[method-assign]
    with pytest.raises(ClusterError):
        idle.leaves(head)
    clock.now += 3600.0
    head.nodes = lambda: [HEAD]  # type: ignore[method-assign]
    assert not idle.leaves(head)


def test_the_machine_is_ended_and_again_where_that_failed(place: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    head, tries = Head(worker("left")), list[int]()
    monkeypatch.setattr("tuneyard.cluster.node.idle.connect", lambda config, folder: head)
    place.mark_drained("no work")

    def end() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ClusterError("AWS did not let us")

    watch = IdleWatch(CONFIG, place.path, IdleWorker(CONFIG, place, 10.0), end, poll_s=0.01)
    watch.start()
    watch.join(10.0)
    assert len(tries) == 3

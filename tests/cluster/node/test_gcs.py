"""What Ray's head is asked and told, on a real one."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import wait_until
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.gcs import BusyError, Gcs, RayNode, own_node

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, and a worker called w1; this process is a job on them."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, node_name="w1")
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def gcs(cluster: Any) -> Iterator[Gcs]:
    made = Gcs(cluster.address)
    yield made
    made.close()


def named(gcs: Gcs, name: str) -> list[RayNode]:
    return [node for node in gcs.nodes() if node.name == name]


@pytest.mark.slow
def test_a_node_is_seen_idle_busy_and_gone_after_it_was_drained(cluster: Any, gcs: Gcs) -> None:
    import ray

    class Work:
        """Holds a core."""

        def here(self) -> None:
            """It has started."""

    [w1] = named(gcs, "w1")
    assert (w1.head, w1.alive) == (False, True)
    assert [node.head for node in gcs.nodes()].count(True) == 1
    wait_until(lambda: named(gcs, "w1")[0].idle_s > 0.5)
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(w1.node_id, soft=False)
    actor: Any = ray.remote(Work).options(num_cpus=1, scheduling_strategy=strategy).remote()
    ray.get(actor.here.remote())
    wait_until(lambda: named(gcs, "w1")[0].state == "busy")
    with pytest.raises(BusyError, match=r"The node was not drained: .*no longer idle"):
        gcs.drain(w1.node_id, "idle", "a test")
    gcs.drain(w1.node_id, "preemption", "a test", within_s=60.0)
    wait_until(lambda: named(gcs, "w1")[0].state == "draining")
    ray.kill(actor)
    wait_until(lambda: named(gcs, "w1")[0].state == "left")


@pytest.mark.slow
def test_a_node_that_died_is_lost(cluster: Any, gcs: Gcs) -> None:
    node = cluster.add_node(num_cpus=1, node_name="w2")
    cluster.remove_node(node, allow_graceful=False)
    wait_until(lambda: named(gcs, "w2")[0].state == "lost", within_s=60.0)


@pytest.mark.slow
def test_the_newest_ray_of_a_machine_is_its_node(cluster: Any, gcs: Gcs) -> None:
    config = NodeConfig(
        cluster="lab", role="worker", name="w3", address=cluster.address.split(":")[0], head="10.0.0.1", kind="onprem"
    )
    assert own_node(gcs.nodes(), config) is None
    first = cluster.add_node(num_cpus=1, node_name="w3")
    second = cluster.add_node(num_cpus=1, node_name="w3")
    wait_until(lambda: len(named(gcs, "w3")) == 2)
    newest = own_node(gcs.nodes(), config)
    assert newest is not None
    assert newest.node_id == second.node_id
    cluster.remove_node(first)
    cluster.remove_node(second)


def test_the_jobs_that_run_are_counted(cluster: Any, gcs: Gcs) -> None:
    assert gcs.running_jobs() == 1


def test_a_head_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.cluster.node.gcs.TIMEOUT_S", 1.0)
    with pytest.raises(ClusterError, match=r"Ray's head at 127\.0\.0\.1:9 does not answer"):
        Gcs("127.0.0.1:9").nodes()

"""A whole sweep on a cluster of several nodes, one of which is lost under it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import Heard, machines, sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture
def three_nodes() -> Iterator[Any]:
    """Three machines with a core each, as raylets of their own; the driver is on the first."""
    with machines([1, 1, 1]) as made:
        yield made


@pytest.mark.slow
def test_a_sweep_of_two_worker_trials_outlives_the_loss_of_a_node(three_nodes: Any, tmp_path: Path) -> None:
    lost = threading.Event()

    def lose_a_node(heard: Heard) -> bool:
        if heard.rows and not lost.is_set():
            lost.set()
            _remove_one_that_trains(three_nodes)
        return False

    changes = {"resources.workers": 2, "tune.trials": 2, "model.args": {"wait_s": 0.1}, "train.epochs": 4}
    swept = sweep(tmp_path, changes, stop_when=lose_a_node)
    assert lost.is_set()
    assert {record.status for record in swept.records.values()} == {"completed"}
    assert [run_id for run_id, _ in swept.heard.retried] == ["0001"]
    assert swept.epochs("0001") == swept.epochs("0002") == [1, 2, 3, 4]


def _remove_one_that_trains(cluster: Any) -> None:
    """Take away a node, not the driver's, that holds a worker of the running trial."""
    from ray._private.state import available_resources_per_node

    free = {node_id for node_id, there in available_resources_per_node().items() if there.get("CPU", 0.0) >= 1.0}
    node = next(node for node in cluster.worker_nodes if node.node_id not in free)
    cluster.remove_node(node, allow_graceful=False)

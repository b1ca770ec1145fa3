"""A sweep on a cluster one of whose nodes is drained under it: its trials save, leave, and go on elsewhere."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import PREFIX, Heard, Swept, machines, sweep
from tuneyard.cluster.node.gcs import Gcs
from tuneyard.trainers.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SLOW = {
    "model.args": {"wait_s": 0.05}, "train.epochs": 4, "tune.max_failures": 0, "tune.search": "grid",
    "tune.space": {"optimizer.lr": {"choice": [0.01, 0.02]}}, "tune.trials": 2, "tune.concurrent": 1,
}  # fmt: skip
"""Two trials, one after the other, that may not fail once."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without cores, and two machines with one each, as raylets of their own."""
    with machines([0, 1, 1]) as made:
        yield made


class Drain:
    """Drains the node, or one of them, that the first trial is on, once it has come through its first epoch."""

    def __init__(self, cluster: Any, within_s: float | None = None) -> None:
        self._cluster, self._within_s = cluster, within_s
        self.drained: str | None = None
        self._once = threading.Event()

    def __call__(self, heard: Heard) -> bool:
        if heard.rows and not self._once.is_set():
            self._once.set()
            gcs = Gcs(self._cluster.address)
            self.drained = next(node.node_id for node in gcs.nodes() if node.state == "busy")
            gcs.drain(self.drained, "preemption", "a test", self._within_s)
            gcs.close()
        return False


def results(swept: Swept, run_id: str) -> list[tuple[float, ...]]:
    """What a run came to, epoch by epoch, without the times."""
    rows = read_metrics(swept.store, f"{PREFIX}{run_id}/")
    return [(row["epoch"], row["step"], row["train/loss"], row["val/loss"], row["val/accuracy"]) for row in rows]


def test_a_trial_leaves_a_drained_node_and_comes_to_the_same_elsewhere(nodes: Any, tmp_path: Path) -> None:
    undisturbed = sweep(tmp_path / "undisturbed", SLOW | {"tune.trials": 1})
    drain = Drain(nodes)
    swept = sweep(tmp_path / "drained", SLOW, stop_when=drain)
    assert drain.drained is not None
    assert {record.status for record in swept.records.values()} == {"completed"}
    assert swept.heard.retried == []
    [(run_id, why)] = swept.heard.moved
    found = re.fullmatch(r"its machine is being taken away \(stopped in epoch \d, after step (\d+)\)", why)
    assert run_id == "0001"
    assert found is not None, why
    assert results(swept, "0001") == results(undisturbed, "0001")
    # It went on from the very step at which it had left.
    line = json.loads(swept.store.get(f"{PREFIX}0001/claims/000002-from.json"))["line"]
    assert line == [[1, int(found[1])]]
    # Ray there has ended by itself: no process was left on it, nor kept for the second trial.
    gcs = Gcs(nodes.address)
    assert next(node.state for node in gcs.nodes() if node.node_id == drain.drained) == "left"
    gcs.close()


def test_a_trial_with_one_of_its_workers_on_the_node_leaves_as_a_whole(nodes: Any, tmp_path: Path) -> None:
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    drain = Drain(nodes)
    swept = sweep(tmp_path, SLOW | {"resources.workers": 2, "tune.trials": 1}, stop_when=drain)
    assert {record.status for record in swept.records.values()} == {"completed"}
    assert swept.heard.retried == []
    assert [run_id for run_id, _ in swept.heard.moved] == ["0001"]
    assert swept.epochs("0001") == [1, 2, 3, 4]

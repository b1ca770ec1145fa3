"""A sweep's node that the head hears nothing of any more, while what trains there still reaches the store."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.trainers.runs import make_project, same_bits, stored_rows, stored_weights, train_run
from tests.tune.sweeps import EXPERIMENT, PREFIX, SWEEP_ID, Heard, environment, sweep
from tests.waiting import wait_until
from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store
from tuneyard.tune.sweep import RAY_ENVIRONMENT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
TASK_PY = '''
"""A network whose first process waits in its second epoch: it tells who it is, and goes on when it may."""

import os
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.steps = -1  # the check before training makes one forward pass
        self.inner = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 10 and not (HERE / "waiting").exists():
            (HERE / "waiting.new").write_text(f"{os.getpid()} {os.getppid()}")
            (HERE / "waiting.new").rename(HERE / "waiting")
            while not (HERE / "healed").exists():
                time.sleep(0.05)
        return self.inner(images)
'''  # noqa: E501
SOON = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "4",
}  # fmt: skip
"""The head gives a silent node up after seconds, and not after half a minute."""


@pytest.fixture
def two_nodes() -> Iterator[None]:
    """A head, where the driver is, and two nodes of one core."""
    folder = tempfile.mkdtemp(prefix="ty-")
    with environment(RAY_ENVIRONMENT | {"TMPDIR": folder} | SOON):
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield
        ray.shutdown()
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Partition:
    """Silences the node of the process that waits; its store is not touched."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self.worker = self.node = 0

    def __call__(self, _: Heard) -> bool:
        """As soon as it waits; for the sweep to call now and then."""
        waiting = self._project / "waiting"
        if not self.node and waiting.exists():
            self.worker, self.node = map(int, waiting.read_text().split())
            assert "raylet" in psutil.Process(self.node).name()
            os.kill(self.node, signal.SIGSTOP)
        return False


def test_one_writers_checkpoints_count_during_a_partition_and_after_it(two_nodes: None, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    make_project(project)
    (project / "task.py").write_text(TASK_PY)
    partition = Partition(project)
    swept = sweep(project, {"tune.trials": 1}, stop_when=partition)
    (run_id,) = swept.sweep.trials
    assert [name for name, _ in swept.heard.retried] == [run_id]
    record = swept.records[run_id]
    assert (record.status, record.attempt) == ("completed", 2)
    prefix = f"{PREFIX}{run_id}/"
    before = {key: swept.store.get(key) for key in swept.store.keys(prefix)}

    # It heals: the first process trains its epoch to the end, and wants to save it.
    assert psutil.pid_exists(partition.worker)
    (project / "healed").touch()
    wait_until(lambda: not psutil.pid_exists(partition.worker) or Blobs(swept.store, PREFIX).pendings())
    os.kill(partition.node, signal.SIGCONT)
    # The node hears that it was given up, and ends; as long as its parent has not seen that, its workers stay.
    wait_until(lambda: os.waitpid(partition.node, os.WNOHANG)[0])
    wait_until(lambda: not psutil.pid_exists(partition.worker))
    assert [(pending.run, pending.attempt) for pending in Blobs(swept.store, PREFIX).pendings()] == [(f"{run_id}/", 1)]
    assert {key: swept.store.get(key) for key in swept.store.keys(prefix)} == before

    alone = TrialSpec(
        run_id="alone", experiment=Experiment.model_validate(record.experiment), project_dir=str(project),
        store_uri=(tmp_path / "alone").as_uri(), tracking_dir=str(tmp_path / "tracking"), sweep_id=SWEEP_ID,
        evaluate_test=False,
    )  # fmt: skip
    train_run(alone)
    there = alone.model_copy(update={"run_id": run_id, "store_uri": swept.store.uri})
    assert same_bits(stored_weights(there), stored_weights(alone))
    assert stored_rows(there) == stored_rows(alone)
    assert EXPERIMENT["train"]["epochs"] == len(stored_rows(there))
    assert open_store(there.store_uri).keys(prefix)

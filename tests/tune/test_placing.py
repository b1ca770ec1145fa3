"""What is done for a trial that Ray does not place, and what its user hears of it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import environment, machines, sweep
from tuneyard.tune.placing import LOOK_S, STIR_S, TELL_S, Placing

NO_ANSWER = (
    '{"NodeManagerService.grpc_client.PrepareBundleResources":'
    ' {"num_failures": 1, "req_failure_prob": 100, "resp_failure_prob": 0}}'
)
"""Ray's own switch for tests: the first time that the GCS asks a node for a group's resources, the link breaks."""


class Ray:
    """A cluster whose groups are placed when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: set[str] = set()
        self.running = False
        self.stirred: list[float] = []
        self.placing = Placing("2 workers with 1 core each", lambda: not self.running, lambda: self.now)

    def unplaced(self) -> set[str]:
        return self.waiting

    def stir(self) -> None:
        self.stirred.append(self.now - 1000.0)

    def free(self) -> str:
        return "1 of 3 cores"

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            self.placing.look(self)
            self.now += LOOK_S


def test_nodes_are_stirred_later_and_later() -> None:
    ray = Ray()
    ray.waiting = {"a"}
    ray.wait(500.0)
    assert ray.stirred == [STIR_S, 3 * STIR_S, 7 * STIR_S, 15 * STIR_S]


def test_a_group_that_is_placed_in_time_stirs_nobody() -> None:
    ray = Ray()
    for group in "abcd":
        ray.waiting = {group}
        ray.wait(STIR_S)
    assert ray.stirred == []


def test_a_sweep_in_which_nothing_runs_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    ray = Ray()
    ray.waiting = {"a"}
    ray.wait(5 * TELL_S)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "No trial has begun for 60 s: each asks for 2 workers with 1 core each, and Ray has 1 of 3 cores free."
    )


def test_a_sweep_in_which_something_runs_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ray = Ray()
    ray.waiting, ray.running = {"a"}, True
    ray.wait(5 * TELL_S)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("there", "free", "told"),
    [
        ({}, {}, "0 of 0 cores"),  # every worker node is gone
        ({"CPU": 4.0}, {"CPU": 1.5}, "1.5 of 4 cores"),
        ({"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}, "4 of 4 cores and 0 of 2 GPUs"),
    ],
)
def test_what_is_free_is_told_also_where_nothing_is_there(
    there: dict[str, float], free: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from tuneyard.tune.ray_place import RayPlace

    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    assert RayPlace(None).free() == told


@pytest.fixture
def nodes_one_of_which_does_not_answer() -> Iterator[Any]:
    """A head without cores, and two machines with one each, as raylets of their own."""
    with environment({"RAY_testing_rpc_failure": NO_ANSWER}), machines([0, 1, 1]) as made:
        yield made


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_trial_whose_node_did_not_answer_is_placed_all_the_same(
    nodes_one_of_which_does_not_answer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    swept = sweep(tmp_path, {"resources.workers": 2, "tune.trials": 1, "train.epochs": 1})
    assert [record.status for record in swept.records.values()] == ["completed"]
    logs = Path(nodes_one_of_which_does_not_answer.head_node.get_logs_dir_path())
    assert "Failed to lease resource" in (logs / "gcs_server.out").read_text(), "Ray had no such fault"

"""Trials of two workers on two nodes: they train like workers of one machine, and nobody waits for one that is gone."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.trainers.runs import same_bits, stored_record, stored_rows, stored_weights
from tests.tune.trials import Kept, config_of, make_spec, own_locks
from tests.waiting import wait_until
from tuneyard.trainers.parallel.processes import train_in_processes
from tuneyard.tune.heartbeat import EndStill
from tuneyard.tune.worker import Failure, Trained
from tuneyard.tune.workers import ALIKE_S, BEHIND_S, KNOWN_S, LOSS_S, Verdict


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each, and a third that one trial alone asks for."""
    with own_locks():
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield made
        ray.shutdown()
        made.shutdown()


def on_ray(test: Any) -> Any:
    """Marks what starts processes, which takes seconds, and minutes on a crowded machine."""
    return pytest.mark.ray(pytest.mark.timeout(400)(test))


@dataclass
class Pair:
    """Two workers that the tests here share as long as they live."""

    folder: Path
    kept: Kept | None = None
    hang_timeout_s: float = 600.0

    def train(self, run_id: str, kind: str = "good", *, rank: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """All results of one leg, of a network that is of this kind on this worker."""
        config = self.config(run_id, kind, rank, **fields)
        if self.kept is None:
            self.kept = Kept(config)
        else:
            self.kept.take(config)
        return self.kept.to_the_end()

    def config(self, run_id: str, kind: str = "good", rank: int = 1, **fields: Any) -> dict[str, Any]:
        args = {"model.args": {"kind": kind, "rank": rank}, "resources.hang_timeout_s": self.hang_timeout_s}
        return config_of(make_spec(self.folder, run_id, args, **fields), workers=2)

    def pids(self) -> list[int]:
        """The processes that built the last network."""
        return [int((self.folder / f"pid-{rank}").read_text()) for rank in (0, 1)]

    def drop(self) -> None:
        """Let the next test have new workers."""
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.close(killed=True)


@pytest.fixture(scope="module")
def pair(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.drop()


def gone(pid: int) -> bool:
    """No process any more, and no zombie either."""
    return not psutil.pid_exists(pid)


@on_ray
def test_two_nodes_train_what_two_processes_of_one_machine_train(pair: Pair) -> None:
    results = pair.train("0001")
    assert [(row["epoch"], row["finished"], row["done"]) for row in results] == [
        (1, False, False), (2, False, False), (3, True, True),
    ]  # fmt: skip
    here = make_spec(pair.folder, "here", {"model.args": {"kind": "good", "rank": 1}, "resources.gpus_per_worker": 0})
    train_in_processes(here, workers=2, threads=1)
    there = make_spec(pair.folder, "0001")
    assert same_bits(stored_weights(there), stored_weights(here))
    assert stored_rows(there) == stored_rows(here)


@on_ray
def test_the_next_trial_trains_in_the_same_processes_and_group(pair: Pair) -> None:
    pair.train("0002")
    before = pair.pids()
    began = time.monotonic()
    pair.train("0003")
    assert pair.pids() == before
    assert time.monotonic() - began < 30
    assert stored_rows(make_spec(pair.folder, "0003")) == stored_rows(make_spec(pair.folder, "0002"))


@on_ray
def test_a_leg_pauses_and_goes_on_to_the_same_weights(pair: Pair) -> None:
    pair.train("0004")
    paused = pair.train("0005", until_epoch=2)[-1]
    assert (paused["epoch"], paused["paused"], paused["done"]) == (2, True, True)
    assert stored_record(make_spec(pair.folder, "0005")).status == "paused"
    assert [row["epoch"] for row in pair.train("0005", resume=True)] == [3]
    assert same_bits(stored_weights(make_spec(pair.folder, "0005")), stored_weights(make_spec(pair.folder, "0004")))


@on_ray
def test_a_leg_that_the_scheduler_ends_is_stopped_on_both_workers(pair: Pair) -> None:
    pair.train("0006")
    assert pair.kept is not None
    pair.kept.take(pair.config("0007"))
    pair.kept.step()
    # The very same leg again: the second worker must not go on with the one that was stopped.
    assert [row["epoch"] for row in pair.train("0007")] == [1, 2, 3]
    assert stored_record(make_spec(pair.folder, "0007")).status == "completed"


@on_ray
@pytest.mark.parametrize("kind", ["nan", "unbuildable"])
def test_a_mistake_that_all_workers_tell_leaves_them_to_the_next_trial(kind: str, pair: Pair) -> None:
    pair.train("0008")
    before = pair.pids()
    failed = pair.train(kind, kind)[-1]
    assert failed["done"]
    assert failed["failed"].startswith(("DivergedError: ", "ConfigError: "))
    pair.train("0009")
    assert pair.pids() == before


@on_ray
def test_the_lack_of_memory_on_one_worker_is_told_as_that_and_the_trial_after_it_trains(pair: Pair) -> None:
    failed = pair.train("0010", "no memory")[-1]
    assert failed["out_of_memory"]
    assert failed["failed"].startswith("RuntimeError: [enforce fail")
    assert "(worker 1 of 2, on " in failed["failed"].splitlines()[0]
    record = stored_record(make_spec(pair.folder, "0010"))
    assert (record.status, record.out_of_memory, record.error) == ("failed", True, failed["failed"])
    assert pair.train("0011")[-1]["finished"]


@on_ray
def test_what_one_worker_alone_raises_is_told_and_takes_all_of_them(pair: Pair) -> None:
    pair.train("0012")
    with pytest.raises(Exception, match=r"TrialFailedError: RuntimeError: out of luck \(worker 1 of 2, on "):
        pair.train("0013", "raises")
    wait_until(lambda: gone(pair.pids()[1]))
    error = stored_record(make_spec(pair.folder, "0013")).error
    assert error is not None
    assert error.startswith("RuntimeError: out of luck (worker 1")
    assert "task.py" in error


@on_ray
def test_a_killed_worker_is_named_and_nobody_waits_for_it(pair: Pair) -> None:
    pair.train("0014")
    began = time.monotonic()
    with pytest.raises(Exception, match=r"WorkerLostError: worker 1 of 2, on .* was lost; was it killed"):
        pair.train("0015", "killed")
    assert time.monotonic() - began < 30
    assert stored_record(make_spec(pair.folder, "0015")).status == "failed"
    wait_until(lambda: gone(pair.pids()[1]))


@on_ray
def test_the_others_end_when_worker_0_is_killed(pair: Pair) -> None:
    pair.train("0016")
    os.kill(pair.pids()[0], signal.SIGKILL)
    wait_until(lambda: all(gone(pid) for pid in pair.pids()))
    pair.drop()


@on_ray
def test_cleaning_up_ends_every_process_of_the_trial(pair: Pair) -> None:
    pair.train("0017")
    assert pair.kept is not None
    pair.kept.close()
    pair.kept = None
    wait_until(lambda: all(gone(pid) for pid in pair.pids()))


@on_ray
@pytest.mark.slow
def test_a_node_that_is_lost_ends_the_trial_soon(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, resources={"doomed": 1})
    doomed = Pair(tmp_path)
    # Its worker stays in the second epoch: processes outlive their node's daemon for a moment, in which others finish.
    kept = Kept(doomed.config("0001", "hangs"), second={"doomed": 1})
    kept.step()
    cluster.remove_node(node, allow_graceful=False)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"WorkerLostError: worker 1 of 2, on .* was lost"):
        kept.to_the_end()
    assert time.monotonic() - began < 30
    kept.close(killed=True)
    wait_until(lambda: all(gone(pid) for pid in doomed.pids()))


@pytest.mark.slow
@on_ray
def test_a_worker_that_hangs_is_waited_for_no_longer_than_an_exchange_may_take(cluster: Any, tmp_path: Path) -> None:
    pair = Pair(tmp_path, hang_timeout_s=20.0)
    pair.kept = Kept(pair.config("0001"), impatient=True)
    pair.kept.to_the_end()
    still = pair.pids()[1]
    with pytest.raises(Exception, match=r"WorkerLostError: worker 1 of 2, on .* did not come along"):
        pair.train("0002", "stopped", rank=1)
    # SIGKILL alone reaches it.
    wait_until(lambda: gone(still))
    # As after any lost process: the same run once more, from its newest checkpoint.
    assert [row["epoch"] for row in pair.train("0002", "stopped", resume=True)] == [2, 3]
    assert same_bits(stored_weights(make_spec(tmp_path, "0002")), stored_weights(make_spec(tmp_path, "0001")))
    # Nothing can wake worker 0: it ends with its process, having left the cause in the run's record.
    with pytest.raises(Exception, match=r"died unexpectedly|actor died"):
        pair.train("0003", "hangs", rank=0)
    record = stored_record(make_spec(tmp_path, "0003"))
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith("WorkerLostError: worker 0 did not come along")
    pair.drop()
    wait_until(lambda: all(gone(pid) for pid in pair.pids()))


@on_ray
def test_a_process_of_ray_that_stands_still_is_ended_by_the_driver(cluster: Any, tmp_path: Path) -> None:
    args = {"model.args": {"kind": "stopped", "rank": 0}, "resources.hang_timeout_s": 4.0}
    kept = Kept(config_of(make_spec(tmp_path, "0001", args)))
    trial = SimpleNamespace(
        status="RUNNING", config={"run_id": "0001"}, temporary_state=SimpleNamespace(ray_actor=kept.actor)
    )
    driver = EndStill(4.0)
    kept.step()
    second = kept.actor.train.remote()
    wait_until((tmp_path / "stopped").exists)
    stopped = time.monotonic()
    while not ray_wait(second):
        assert time.monotonic() - stopped < 60
        driver.on_step_end(0, [trial])
    assert time.monotonic() - stopped > 2.0
    with pytest.raises(Exception, match=r"died unexpectedly|actor died"):
        kept.to_the_end()
    wait_until(lambda: gone(int((tmp_path / "pid-0").read_text())))
    kept.close(killed=True)


def ray_wait(call: Any) -> bool:
    """Has it an answer, or an error?"""
    import ray

    return bool(ray.wait([call], timeout=0.2)[0])


RAISED = Failure("RuntimeError", "RuntimeError: out of luck")
ECHO = Failure("RuntimeError", "RuntimeError: gloo: connection closed", link=True)
TOLD = Failure("DataError", "DataError: no such file", understood=True)
LOST = Failure("WorkerLostError", "WorkerLostError: worker 1 was lost", lost=True)
FINE = Trained({})


@pytest.mark.parametrize(
    ("own", "others", "cause", "kept"),
    [
        (FINE, [FINE, FINE], None, True),
        (TOLD, [TOLD, TOLD], TOLD, True),
        (TOLD, [TOLD, FINE], TOLD, False),
        (RAISED, [RAISED, RAISED], RAISED, False),
        (ECHO, [LOST, ECHO], LOST, False),
        (ECHO, [ECHO, LOST], LOST, False),
        (ECHO, [TOLD, ECHO], TOLD, False),
        (ECHO, [ECHO, ECHO], ECHO, False),
        (FINE, [RAISED, FINE], RAISED, False),
    ],
)
def test_the_cause_is_told_and_not_its_echo(
    own: Trained | Failure, others: list[Trained | Failure], cause: Failure | None, kept: bool
) -> None:
    verdict = Verdict()
    for answer in others:
        verdict.add(answer, "")
    verdict.add_own(own)
    assert verdict.cause == cause
    assert (verdict.cause is None or verdict.alike) == kept


@pytest.mark.parametrize(
    ("answers", "patience_s"),
    [([ECHO], LOSS_S), ([ECHO, LOST], KNOWN_S), ([RAISED], KNOWN_S), ([TOLD], ALIKE_S), ([FINE], BEHIND_S)],
)
def test_how_long_the_others_are_waited_for(
    answers: list[Trained | Failure], patience_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("tuneyard.tune.workers.time.monotonic", lambda: clock[0])
    verdict = Verdict()
    assert not verdict.patience_over()
    verdict.add_own(answers[0])
    for answer in answers[1:]:
        verdict.add(answer, "")
    clock[0] += patience_s - 0.01
    assert not verdict.patience_over()
    clock[0] += 0.02
    assert verdict.patience_over()

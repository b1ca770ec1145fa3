"""A run gets over the loss of its workers: with the weights of an undisturbed run, to the last bit."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.trainers.runs import make_spec, same_bits, stored_record, stored_rows, stored_weights
from tuneyard.trainers.parallel.processes import Telling, WorkerError, train_in_processes
from tuneyard.trainers.parallel.supervisor import Loss, Recovery, Supervisor
from tuneyard.trainers.signals import LateError
from tuneyard.trainers.spec import TrialSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # of which most is the start of processes, on a crowded machine
CHANGES = {
    "model.args": {"dropout": 0.3, "wait_s": 0.05}, "train.epochs": 4, "resources.gpus_per_worker": 0,
    "resources.spare_workers": 0,
}  # fmt: skip
STEPS_PER_EPOCH = 8


class Disturbing(Telling):
    """Sends each of these signals, to these workers, after the step; notes what followed."""

    def __init__(self, plan: dict[int, tuple[signal.Signals, tuple[int, ...]]]) -> None:
        self._plan = plan
        self.losses: list[Loss] = []
        self.recoveries: list[Recovery] = []

    def look(self, supervisor: Supervisor) -> None:
        due = [step for step in self._plan if supervisor.stepping and supervisor.step >= step]
        for step in due:
            number, ranks = self._plan.pop(step)
            for rank in ranks:
                os.kill(supervisor.workers[rank].pid, number)

    def lost(self, loss: Loss) -> None:
        super().lost(loss)
        self.losses.append(loss)

    def recovered(self, recovery: Recovery) -> None:
        super().recovered(recovery)
        self.recoveries.append(recovery)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrialSpec:
    spec = make_spec(tmp_path_factory.mktemp("undisturbed"), CHANGES)
    train_in_processes(spec, 2, 1)
    return spec


def test_a_run_gets_over_kills_of_one_worker_of_all_and_of_one_that_stands_still(
    undisturbed: TrialSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(tmp_path, {**CHANGES, "resources.hang_timeout_s": 4.0})
    observer = Disturbing(
        {10: (signal.SIGKILL, (1,)), 18: (signal.SIGKILL, (0, 1)), 26: (signal.SIGSTOP, (1,))}
    )  # fmt: skip
    train_in_processes(spec, 2, 1, observer)
    assert same_bits(stored_weights(spec), stored_weights(undisturbed))
    assert stored_rows(spec) == stored_rows(undisturbed)
    assert stored_record(spec).status == "completed"
    assert [loss.kind for loss in observer.losses] == ["was ended by SIGKILL", "was ended by SIGKILL", "hung"]
    assert [loss.rank for loss in observer.losses] == [1, 0, 1]
    # Every loss cost less than an epoch and a half: the newest checkpoint was gone on from.
    assert all(0 < recovery.origin <= recovery.loss.step for recovery in observer.recoveries)
    assert all(recovery.steps_again <= 1.5 * STEPS_PER_EPOCH for recovery in observer.recoveries)
    err = capfd.readouterr().err
    assert err.count("; going on.") == err.count("; went on from the checkpoint of step ") == 3


def test_losses_beyond_what_is_allowed_end_the_run_with_the_cause_in_its_record(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {**CHANGES, "resources.max_restarts": 0})
    with pytest.raises(WorkerError, match=r"^Worker 0 of 1 was ended by SIGKILL \(is there enough memory\?\):\n"):
        train_in_processes(spec, 1, 1, Disturbing({2: (signal.SIGKILL, (0,))}))
    record = stored_record(spec)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith("Worker 0 of 1 was ended by SIGKILL")


def test_a_run_leaves_in_time_where_it_cannot_come_to_save(tmp_path: Path) -> None:
    # A worker that stands still does not answer the signal either.
    spec = make_spec(tmp_path, {**CHANGES, "resources.leave_within_s": 3.0})

    class StoppedTwice(Disturbing):
        def look(self, supervisor: Supervisor) -> None:
            before = len(self._plan)
            super().look(supervisor)
            if len(self._plan) < before:
                threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
                self.asked = time.monotonic()

    observer = StoppedTwice({12: (signal.SIGSTOP, (0,))})
    with pytest.raises(LateError, match=r"did not save within .* 3\. The newest durable checkpoint: that of step 8 "):
        train_in_processes(spec, 1, 1, observer)
    assert time.monotonic() - observer.asked < 3.0 + 2.0

"""A checkpoint loads on another number of workers and under another strategy, and training goes on as it would have.

Every epoch's loss is a mean over that epoch's samples, each seen at its own step: it agrees with the uninterrupted run
only where the same samples came in the same order, with the optimizer's state of before.
"""

from itertools import pairwise

import pytest

from tests.trainers.parallel.jobs import ADAMW, Jobs
from tests.trainers.parallel.test_zero import assert_same
from tests.trainers.runs import StopAfter, checkpoints_of, stored_rows, stored_weights
from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EPOCHS = 3  # of ten steps each

WAYS: dict[str, list[tuple[int, str, int | None]]] = {
    "2 to 1": [(2, "ddp", 8), (1, "ddp", None)],
    "1 to 2": [(1, "ddp", 13), (2, "ddp", None)],
    "2 to 3": [(2, "ddp", 8), (3, "ddp", None)],
    "zero2 on 2 to 3": [(2, "zero2", 8), (3, "zero2", None)],
    "zero3 on 3 to ddp on 1": [(3, "zero3", 8), (1, "ddp", None)],
    "ddp, zero2, zero3, ddp": [(2, "ddp", 8), (3, "zero2", 8), (2, "zero3", 8), (1, "ddp", None)],
}
"""Workers, strategy, and the steps after which it is stopped (counted from where it goes on)."""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """All ways, walked side by side: the stages of one number of workers share their processes."""
    jobs = Jobs(tmp_path_factory.mktemp("workers"))
    waiting = {name: list(stages) for name, stages in WAYS.items()}
    while any(waiting.values()):
        workers = max((stages[0][0] for stages in waiting.values() if stages), key=lambda n: _ready(waiting, n))
        for name, stages in waiting.items():
            while stages and stages[0][0] == workers:
                _, strategy, stop_after = stages.pop(0)
                jobs.add(name, strategy, stop_after=stop_after, optimizer=ADAMW, train__epochs=EPOCHS)
        if workers > 1:
            jobs.train(workers)
        else:
            _train_alone(jobs)
    return jobs


@pytest.fixture(scope="module")
def whole(jobs: Jobs) -> TrialSpec:
    """One worker, never stopped."""
    spec = jobs.spec("whole", "ddp", optimizer=ADAMW, train__epochs=EPOCHS)
    train(spec, Session(threads=1, cpu=True), Silent(), lambda: False)
    return spec


def _ready(waiting: dict[str, list[tuple[int, str, int | None]]], workers: int) -> int:
    return sum(1 for stages in waiting.values() if stages and stages[0][0] == workers)


def _train_alone(jobs: Jobs) -> None:
    session = Session(threads=1, cpu=True)
    for job in jobs.jobs:
        try:
            train(TrialSpec.model_validate(job["spec"]), session, Silent(), StopAfter(job["stop_after"]))
        except InterruptedRunError:
            assert job["stop_after"] is not None
    jobs.jobs.clear()


@pytest.mark.parametrize("way", WAYS)
def test_the_losses_are_those_of_a_run_that_never_stopped(way: str, jobs: Jobs, whole: TrialSpec) -> None:
    rows, expected = jobs.rows(way), stored_rows(whole)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("train/loss", "val/loss"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_are_those_of_a_run_that_never_stopped(way: str, jobs: Jobs, whole: TrialSpec) -> None:
    assert_same(jobs.weights(way), stored_weights(whole), 2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_every_stage_began_in_the_middle_of_an_epoch(way: str, jobs: Jobs) -> None:
    # Otherwise the order of the samples within an epoch would not have been put to the test.
    stops = [stop for _, _, stop in WAYS[way] if stop is not None]
    places = [sum(stops[: count + 1]) for count in range(len(stops))]
    assert all(place % 10 for place in places)
    assert all(before < after for before, after in pairwise([0, *places, 10 * EPOCHS]))
    assert checkpoints_of(jobs.specs[way]).infos()[-1].step == 10 * EPOCHS

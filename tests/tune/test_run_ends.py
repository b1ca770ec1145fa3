"""What stands in the runs' records when a sweep is over."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.tune.desks import experiment, make_desk
from tests.tune.records import store_at, write_run
from tuneyard.trainers.record import RunRecord, RunStatus, read_run, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.desk import Desk
from tuneyard.tune.run_ends import settle
from tuneyard.tune.sweep import SweepRequest

RUN = "played/s1/0001/"


def ended_as(store: Store, desk: Desk) -> RunRecord:
    """The first run's record after a stopped sweep was settled."""
    settle(cast(SweepRequest, SimpleNamespace(prefix="played/s1/", should_stop=lambda: True)), store, desk)
    return read_run(store, RUN)


def started(store: Store, status: RunStatus, *, undecided: bool = False) -> Desk:
    """A desk with one run under way, whose record says this."""
    desk = make_desk(experiment(tune={"scheduler": "none", "trials": 1, "max_failures": 1})).desk
    assert desk.next_leg() is not None
    write_run(store, RUN, [0.5], status=status, error="gone" if undecided else None)
    write_record(store, RUN, read_run(store, RUN).model_copy(update={"undecided": undecided}))
    return desk


def test_a_run_whose_processes_were_still_starting_was_interrupted(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert ended_as(store, started(store, "running")).status == "interrupted"


@pytest.mark.parametrize(
    ("losses", "told"), [(1, ("failed", "gone", True)), (2, ("failed", "gone", False))], ids=["to be tried", "judged"]
)
def test_a_failure_keeps_its_cause_and_is_undecided_as_long_as_it_is_to_be_tried_again(
    losses: int, told: tuple[str, str, bool], tmp_path: Path
) -> None:
    store = store_at(tmp_path)
    desk = started(store, "failed", undecided=True)
    desk.leg_ended("0001", "lost")
    if losses == 2:
        assert desk.next_leg() is not None
        desk.leg_ended("0001", "lost")
    record = ended_as(store, desk)
    assert (record.status, record.error, record.undecided) == told

"""What a sweep knows of its earlier trials."""

from pathlib import Path

import pytest

from tests.tune.records import ACCURACY, experiment, store_at, write_run, write_sweep
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.record import BestEpoch, RunStatus, read_run, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.history import read_earlier, read_trials
from tuneyard.tune.index import NAME, Index, IndexedRun, IndexedTrial
from tuneyard.tune.trials import RunState

PREFIX = "fashion/s1/"


def write_trial(store: Store, run_id: str, best: float | None, status: RunStatus = "completed") -> None:
    """A trial of the sweep whose record holds its best value."""
    prefix = f"{PREFIX}{run_id}/"
    write_run(store, prefix, [] if best is None else [best], status=status, overrides={"optimizer.lr": 0.1})
    chosen = None if best is None else BestEpoch(value=best, epoch=1, step=10)
    write_record(store, prefix, read_run(store, prefix).model_copy(update={"best": chosen}))


def test_the_trials_of_one_sweep_are_read_in_order(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_sweep(store, PREFIX, [])
    for run_id in ("0010", "0002", "0001"):
        write_trial(store, run_id, 0.5)
    write_run(store, "fashion/s2/0003/", [0.9])
    assert [trial.record.run_id for trial in read_earlier(store, PREFIX)] == ["0001", "0002", "0010"]


def test_a_trial_without_a_record_is_passed_over(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.put(f"{PREFIX}0001/metrics.jsonl", b"")
    assert read_earlier(store, PREFIX) == []


def taken_up(store: Store) -> tuple[bool, str]:
    """What a resumed sweep takes the one run there for: has it ended, and the state it goes on from."""
    [earlier] = read_earlier(store, PREFIX)
    [trial] = read_trials(store, PREFIX, Experiment.model_validate(experiment()), ACCURACY)
    return earlier.ended, trial.leader.state


@pytest.mark.parametrize(
    ("status", "ended", "state"),
    [
        ("completed", True, "completed"), ("stopped", True, "stopped"), ("failed", True, "failed"),
        ("paused", False, "paused"), ("interrupted", False, "waiting"), ("running", False, "waiting"),
    ],
)  # fmt: skip
def test_cut_short_and_lost_trials_go_on(tmp_path: Path, status: RunStatus, ended: bool, state: str) -> None:
    store = store_at(tmp_path)
    write_trial(store, "0001", 0.5, status)
    assert taken_up(store) == (ended, state)


def write_undecided(store: Store) -> None:
    """A run that says it has failed, and was not told what its sweep makes of that."""
    write_trial(store, "0001", 0.5, "failed")
    record = read_run(store, f"{PREFIX}0001/")
    write_record(store, f"{PREFIX}0001/", record.model_copy(update={"undecided": True}))


def test_a_failure_that_no_driver_has_judged_is_tried_again(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_undecided(store)
    assert taken_up(store) == (False, "waiting")


@pytest.mark.parametrize(("judged", "state"), [("running", "waiting"), ("failed", "failed"), ("stopped", "stopped")])
def test_a_failure_that_the_driver_had_judged_before_it_was_lost_stays(
    tmp_path: Path, judged: RunState, state: str
) -> None:
    store = store_at(tmp_path)
    write_undecided(store)
    run = IndexedRun(run_id="0001", part={}, settings={}, state=judged, epoch=1, failures=3)
    trial = IndexedTrial(trial_id="0001", overrides={}, status=judged, value=0.5, runs=[run], confirming=[])
    store.put(f"{PREFIX}{NAME}", Index(trials=[trial]).model_dump_json().encode())
    assert taken_up(store)[1] == state

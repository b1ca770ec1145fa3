"""Real sweeps on a local Ray: who fails alone, who is stopped, who wins, and what goes on after an interruption."""

import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import EPOCHS, PREFIX, Heard, Swept, built_in, make_project, ray_of_two_cores, sweep
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import read_sweep, write_record

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

KINDS = ["good", "raises", "nan", "unbuildable", "killed", "refused", "poor"]
CHOICES = [{"name": "task.py:Net", "args": {"kind": kind}} for kind in KINDS]
CHOICES[5] = {"name": "task.py:Net", "agrs": {}}
MIXED: dict[str, Any] = {
    "tune.search": "grid", "tune.trials": 16, "tune.max_failures": 1, "tune.space": {"model": {"choice": CHOICES}},
}  # fmt: skip
TRIALS = dict(zip(KINDS, (f"{number:04d}" for number in range(1, 8)), strict=True))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray of two cores for all sweeps here."""
    yield from ray_of_two_cores()


@pytest.fixture(scope="module")
def mixed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A grid of one good network, one poor one, and five that fail, each in its own way."""
    return sweep(tmp_path_factory.mktemp("mixed"), MIXED)


def test_a_grid_is_run_to_its_end_whatever_fails_in_it(mixed: Swept) -> None:
    statuses = {run_id: record.status for run_id, record in mixed.records.items()}
    expected = dict.fromkeys(KINDS, "failed") | {"good": "completed", "poor": "completed"}
    assert statuses == {TRIALS[kind]: status for kind, status in expected.items()}
    assert mixed.sweep.status == "completed"
    assert [record.overrides["model"] for record in mixed.records.values()] == CHOICES
    assert mixed.epochs(TRIALS["good"]) == mixed.epochs(TRIALS["poor"]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("raises", "RuntimeError: out of luck"),
        ("nan", "DivergedError: The training loss became NaN or infinite at step 10"),
        ("unbuildable", "ConfigError: model.args: task.py:Net cannot be built with {'kind': 'unbuildable'}"),
        ("refused", "ConfigError: quadrants has 1 mistake:\n  model.agrs: unknown key. Did you mean 'args'?"),
        ("killed", "its process died; was it killed, or out of memory?"),
    ],
)
def test_a_failed_trial_says_why_in_its_record_and_to_the_watcher(mixed: Swept, kind: str, cause: str) -> None:
    error = mixed.records[TRIALS[kind]].error
    assert error is not None
    assert error.startswith(cause)
    assert mixed.heard.ended[TRIALS[kind]] == ("failed", error)


def test_only_a_fault_of_the_code_comes_with_the_place_where_it_happened(mixed: Swept) -> None:
    told = {kind: mixed.records[TRIALS[kind]].error or "" for kind in KINDS}
    assert [kind for kind, error in told.items() if "Traceback" in error] == ["raises"]
    assert "task.py" in told["raises"]


def test_what_a_trial_came_to_before_it_failed_is_kept(mixed: Swept) -> None:
    assert mixed.epochs(TRIALS["nan"]) == [1]
    # Killed in its tenth step, twice. The second time it came further, if its first checkpoint was whole by the first.
    assert mixed.epochs(TRIALS["killed"]) in ([1], [1, 2])


def test_every_trial_is_told_from_its_beginning_to_its_end(mixed: Swept) -> None:
    assert sorted(set(mixed.heard.began)) == sorted(mixed.heard.ended) == sorted(TRIALS.values())
    assert [epoch for run_id, epoch in mixed.heard.rows if run_id == TRIALS["good"]] == [1, 2, 3]


def test_what_may_be_an_accident_is_tried_again_and_a_mistake_is_not(mixed: Swept) -> None:
    assert sorted(run_id for run_id, _ in mixed.heard.retried) == [TRIALS["raises"], TRIALS["killed"]]
    assert mixed.records[TRIALS["raises"]].attempts == 2


def test_the_driver_has_judged_every_failure(mixed: Swept) -> None:
    assert {record.undecided for record in mixed.records.values() if record.status == "failed"} == {False}


@pytest.fixture(scope="module")
def halved(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A good network and five poor ones, two at a time, under ASHA."""
    choices = ["good"] + ["poor"] * 5
    space = {"model.args": {"choice": [{"kind": kind, "number": number} for number, kind in enumerate(choices)]}}
    changes = {
        "tune.search": "grid", "tune.scheduler": "asha", "tune.space": space, "tune.trials": 6, "tune.concurrent": 2,
        "tune.metric": "val/loss", "tune.mode": "min",
    }  # fmt: skip
    return sweep(tmp_path_factory.mktemp("halved"), changes)


def test_asha_stops_poor_trials_and_their_records_say_so_to_the_last(halved: Swept) -> None:
    records = list(halved.records.values())
    assert records[0].status == "completed"
    # Of six at the rung two go on: the good one, and the best of the poor ones.
    assert [record.status for record in records[2:]] == ["stopped"] * 4
    assert [record.error for record in records[2:]] == [None] * 4
    assert {halved.heard.ended[record.run_id] for record in records[2:]} == {("stopped", None)}
    assert all(halved.epochs(record.run_id) == [1] for record in records[2:])


def test_processes_are_kept_from_trial_to_trial(halved: Swept) -> None:
    # Six first legs, two more that were promoted; one more process evaluates the winner on the test set.
    assert len(halved.built) == 9
    assert len({line["pid"] for line in halved.built[:8]}) <= 2


def test_trials_that_run_side_by_side_have_cores_of_their_own(halved: Swept) -> None:
    cores = {line["pid"]: line["cores"] for line in halved.built[:8]}
    held = [core for of_one in cores.values() for core in of_one]
    assert [len(of_one) for of_one in cores.values()] == [1] * len(cores)
    assert len(set(held)) == len(held)


def test_the_best_trial_wins_and_it_alone_sees_the_test_set_once(halved: Swept) -> None:
    assert halved.sweep.winner == "0001"
    assert {run_id for run_id, record in halved.records.items() if record.test is not None} == {"0001"}
    assert halved.sweep.winner_test == halved.records["0001"].test
    assert halved.sweep.winner_test is not None
    assert 0.25 < halved.sweep.winner_test["test/accuracy"] <= 1.0
    # Two legs, and the test.
    assert [line["kind"] for line in halved.built].count("good") == 3


SLOW: dict[str, Any] = {
    "model.args": {"wait_s": 0.03}, "tune.trials": 3, "tracking.comet.mode": "offline", "tracking.comet.images": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def cut_short(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Stopped in the middle of an epoch of its third trial."""

    def third_has_begun(heard: Heard) -> bool:
        return len(heard.ended) > 0 and ("0003", 1) in heard.rows

    return sweep(tmp_path_factory.mktemp("cut"), SLOW, stop_when=third_has_begun)


@pytest.fixture(scope="module")
def cut_records(cut_short: Swept) -> dict[str, Any]:
    """The records as they were before anything was resumed."""
    return dict(cut_short.records)


@pytest.fixture(scope="module")
def resumed(cut_short: Swept, cut_records: dict[str, Any]) -> Swept:
    """Resumed with more trials, and run to its end."""
    return sweep(cut_short.folder, SLOW | {"tune.trials": 5}, resume=True)


def test_a_stopped_sweep_leaves_interrupted_trials_and_does_not_touch_the_test_set(
    cut_short: Swept, cut_records: dict[str, Any]
) -> None:
    assert cut_short.sweep.status == "interrupted"
    assert cut_records["0001"].status == "completed" or cut_records["0002"].status == "completed"
    assert cut_records["0003"].status == "interrupted"
    assert cut_short.heard.ended["0003"][0] == "interrupted"
    assert cut_short.sweep.winner is not None
    assert cut_short.sweep.winner_test is None
    assert not [record for record in cut_records.values() if record.test]


def test_a_resumed_sweep_runs_what_is_missing_and_no_more(cut_records: dict[str, Any], resumed: Swept) -> None:
    done_before = {run_id for run_id, record in cut_records.items() if record.status == "completed"}
    assert sorted(resumed.records) == ["0001", "0002", "0003", "0004", "0005"]
    assert {record.status for record in resumed.records.values()} == {"completed"}
    assert resumed.sweep.status == "completed"
    assert not done_before & set(resumed.heard.began)
    attempts = {run_id: record.attempts for run_id, record in resumed.records.items()}
    expected = {run_id: 1 if run_id in done_before or run_id > "0003" else 2 for run_id in attempts}
    assert attempts == expected


def test_every_epoch_of_a_resumed_trial_is_there_exactly_once(resumed: Swept) -> None:
    assert [resumed.epochs(run_id) for run_id in resumed.records] == [list(range(1, EPOCHS + 1))] * 5
    assert ("0003", 1) not in resumed.heard.rows


def test_a_resumed_sweep_does_not_try_a_point_twice(resumed: Swept) -> None:
    rates = [record.overrides["optimizer.lr"] for record in resumed.records.values()]
    assert len(set(rates)) == 5


def test_each_trial_is_one_comet_experiment_also_after_a_resume(resumed: Swept) -> None:
    recorded = {record.tracking["comet_key"] for record in resumed.records.values()}
    # A process of Comet's own writes the archives, after the sweep has ended perhaps; 0003 has two attempts.
    archives = _wait_for(lambda: sorted((resumed.folder / "tracking" / "comet").glob("*.zip")), at_least=6)
    keys = {_comet_key(archive) for archive in archives}
    assert keys == recorded
    assert len(keys) == 5


def test_a_complete_sweep_resumed_trains_nothing_and_does_not_use_the_test_set_again(resumed: Swept) -> None:
    builds = len(resumed.built)
    again = sweep(resumed.folder, SLOW | {"tune.trials": 5}, resume=True)
    assert (again.sweep.winner, again.sweep.winner_test) == (resumed.sweep.winner, resumed.sweep.winner_test)
    assert again.sweep.winner_test is not None
    assert len(again.built) == builds
    assert again.heard.began == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train.batch_size": 24}, "train.batch_size was 12"),
        ({"tune.space": {"optimizer.lr": {"loguniform": [0.001, 0.9]}}}, "tune.space.optimizer.lr.loguniform was"),
        ({"model.args": {"wait_s": 0.03, "number": 1}}, "model.args.number was None"),
    ],
)
def test_a_changed_experiment_is_not_resumed(cut_short: Swept, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        sweep(cut_short.folder, SLOW | changes, resume=True)


def test_a_trial_lost_after_its_last_checkpoint_is_completed_by_a_resume(resumed: Swept) -> None:
    """As when the machine goes down between the last epoch and the record's end."""
    record = resumed.records["0005"]
    write_record(resumed.store, f"{PREFIX}0005/", record.model_copy(update={"status": "running", "ended": None}))
    again = sweep(resumed.folder, SLOW | {"tune.trials": 5}, resume=True)
    assert again.records["0005"].status == "completed"
    assert again.epochs("0005") == [1, 2, 3]
    assert again.heard.ended == {"0005": ("completed", None)}


def test_more_cores_than_ray_has_are_refused_and_the_sweep_is_not_left_running(local_ray: None, tmp_path: Path) -> None:
    make_project(tmp_path)
    with pytest.raises(ConfigError, match=r"a trial asks for 64 cores and 0 GPUs .*, and Ray has 2 and 0"):
        sweep(tmp_path, {"resources.cpus_per_worker": 64})
    from tuneyard.trainers.stores.store import open_store

    assert read_sweep(open_store(str(tmp_path / "runs")), PREFIX).status == "failed"
    assert built_in(tmp_path) == []


def _wait_for(found: Any, at_least: int, timeout_s: float = 60.0) -> list[Path]:
    deadline = time.monotonic() + timeout_s
    while len(found()) < at_least and time.monotonic() < deadline:
        time.sleep(0.2)
    paths: list[Path] = found()
    assert len(paths) >= at_least, paths
    return paths


def _comet_key(archive: Path) -> str:
    with zipfile.ZipFile(archive) as opened:
        metadata = json.loads(opened.read("experiment.json"))
    return str(metadata["offline_id"])

"""A trial of one worker as Ray sees it: what its results say, and what it leaves in its record."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.runs import stored_record
from tests.tune.trials import Kept, config_of, make_spec, own_locks
from tuneyard.tune.worker import Failure

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A process that has trained a trial, for all tests here."""
    with own_locks():
        import ray

        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL
        )  # fmt: skip
        made = Kept(config_of(make_spec(tmp_path_factory.mktemp("first"), "0001")))
        assert made.to_the_end()[-1]["finished"]
        yield made
        made.close()
        ray.shutdown()


def train(kept: Kept, folder: Path, run_id: str, kind: str = "good", **fields: Any) -> list[dict[str, Any]]:
    """All results of one leg."""
    kept.take(config_of(make_spec(folder, run_id, {"model.args": {"kind": kind, "rank": 0}}, **fields)))
    return kept.to_the_end()


def test_a_leg_ends_where_the_run_is_to_pause_and_the_next_one_goes_on(kept: Kept, tmp_path: Path) -> None:
    results = train(kept, tmp_path, "0001", until_epoch=2)
    assert [(row["epoch"], row["done"], row.get("paused", False)) for row in results] == [
        (1, False, False), (2, True, True),
    ]  # fmt: skip
    assert not results[-1]["finished"]
    assert stored_record(make_spec(tmp_path, "0001")).status == "paused"
    last = train(kept, tmp_path, "0001", resume=True)
    assert [(row["epoch"], row["finished"], row["done"]) for row in last] == [(3, True, True)]


def test_a_leg_whose_process_was_lost_after_its_last_checkpoint_is_told_again(kept: Kept, tmp_path: Path) -> None:
    train(kept, tmp_path, "0001", until_epoch=2)
    again = train(kept, tmp_path, "0001", until_epoch=2, resume=True)
    assert [(row["epoch"], row["paused"], row["done"]) for row in again] == [(2, True, True)]


def test_a_leg_that_the_scheduler_ends_is_stopped(kept: Kept, tmp_path: Path) -> None:
    kept.take(config_of(make_spec(tmp_path, "0001")))
    kept.step()
    train(kept, tmp_path, "0002")
    assert stored_record(make_spec(tmp_path, "0001")).status == "stopped"


def test_values_that_do_not_go_together_fail_alone(kept: Kept, tmp_path: Path) -> None:
    kept.take(config_of(None))
    result = kept.step()
    assert (result["failed"], result["done"]) == ("ConfigError: no", True)
    assert train(kept, tmp_path, "0001")[-1]["finished"]


def test_a_population_member_begins_from_another(kept: Kept, tmp_path: Path) -> None:
    train(kept, tmp_path, "0001", until_epoch=2)
    assert [row["epoch"] for row in train(kept, tmp_path, "0002", clone_of="0001")] == [3]
    assert stored_record(make_spec(tmp_path, "0002")).cloned_from == ["0001"]


def test_a_trial_that_is_to_leave_its_machine_saves_and_takes_its_process_with_it(kept: Kept, tmp_path: Path) -> None:
    from tuneyard.tune.wishes import SECONDS_BETWEEN_LOOKS, Wishes

    kept.take(config_of(make_spec(tmp_path, "0001")))
    kept.step()
    wishes = Wishes("s1")
    wishes.leave([kept.actor._actor_id.hex()])
    time.sleep(SECONDS_BETWEEN_LOOKS)
    with pytest.raises(Exception, match=r"TrialFailedError: its machine is being taken away \(stopped in") as told:
        kept.to_the_end()
    assert told.value.cause.how == "left"  # type: ignore[attr-defined]
    assert stored_record(make_spec(tmp_path, "0001")).status == "interrupted"
    # The next one does not even begin there.
    kept.take(config_of(make_spec(tmp_path, "0002")))
    with pytest.raises(Exception, match=r"taken away \(it had not begun\)"):
        kept.step()
    wishes.leave([])
    kept.take(config_of(make_spec(tmp_path, "0001", resume=True)))
    assert [row["epoch"] for row in kept.to_the_end()] == [2, 3]


def test_the_lack_of_memory_is_told_and_the_process_kept(kept: Kept, tmp_path: Path) -> None:
    failed = train(kept, tmp_path, "0001", "no memory")[-1]
    assert (failed["out_of_memory"], failed["done"]) == (True, True)
    record = stored_record(make_spec(tmp_path, "0001"))
    assert (record.status, record.out_of_memory) == ("failed", True)
    pid = (tmp_path / "pid-0").read_text()
    assert train(kept, tmp_path, "0002")[-1]["finished"]
    assert (tmp_path / "pid-0").read_text() == pid


def test_more_memory_than_allowed_ends_the_run_with_a_word(kept: Kept, tmp_path: Path) -> None:
    limit = {"resources.memory_per_worker_gb": 0.01}
    kept.take(config_of(make_spec(tmp_path, "0001", limit)))
    failed = kept.step()
    assert failed["out_of_memory"]
    assert "GB of memory; resources.memory_per_worker_gb allows 0.01" in failed["failed"]
    assert stored_record(make_spec(tmp_path, "0001")).out_of_memory


def test_a_fault_of_the_users_code_comes_with_its_place(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"TrialFailedError: RuntimeError: out of luck"):
        train(kept, tmp_path, "0001", "raises")
    record = stored_record(make_spec(tmp_path, "0001"))
    assert (record.status, record.undecided) == ("failed", True)
    assert record.error is not None
    assert record.error.startswith("RuntimeError: out of luck\n\nTraceback")
    assert os.fspath(tmp_path / "task.py") in record.error


def test_users_code_that_exits_has_failed(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="TrialFailedError: SystemExit: 1"):
        train(kept, tmp_path, "0001", "exits")
    assert stored_record(make_spec(tmp_path, "0001")).status == "failed"


def test_a_process_that_ray_ends_leaves_it_to_the_driver_to_say_why(kept: Kept, tmp_path: Path) -> None:
    import ray

    spec = make_spec(tmp_path, "0001", {"model.args": {"kind": "terminated", "rank": 0}})
    ended = Kept(config_of(spec))
    with pytest.raises(ray.exceptions.RayActorError):
        ended.to_the_end()
    ended.close(killed=True)
    record = stored_record(spec)
    assert (record.status, record.error) == ("running", None)


@pytest.mark.parametrize(
    ("failure", "how"),
    [
        (Failure("DataError", "DataError: no such file", understood=True), "refused"),
        (Failure("RuntimeError", "RuntimeError: out of luck"), "lost"),
        (Failure("OutOfMemoryError", "too much", understood=True, out_of_memory=True), "out_of_memory"),
        (Failure("WorkerLostError", "gone", lost=True, preempted=True), "preempted"),
    ],
)
def test_a_mistake_that_one_worker_has_understood_is_not_tried_again(failure: Failure, how: str) -> None:
    from tuneyard.tune.trial import how_it_failed

    assert how_it_failed(failure) == how

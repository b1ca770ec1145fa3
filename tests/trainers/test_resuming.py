"""Runs that pause, go on with other values, or begin as the copy of another run."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainers.runs import (
    STEPS_PER_EPOCH,
    Changes,
    checkpoints_of,
    make_spec,
    same_bits,
    stored_rows,
    stored_weights,
    train_run,
)
from tuneyard.trainers.errors import CheckpointError, InterruptedRunError
from tuneyard.trainers.spec import TrialSpec

SWEEP = {"sweep_id": "s1", "evaluate_test": False}


def member(folder: Path, run_id: str, changes: Changes | None = None, **fields: object) -> TrialSpec:
    """A run of a sweep in `folder`."""
    return make_spec(folder, changes, **{"run_id": run_id, **SWEEP, **fields})


def group_settings(spec: TrialSpec) -> list[tuple[float, float, float]]:
    """lr, weight decay and peak lr of each parameter group in the newest checkpoint."""
    groups = checkpoints_of(spec).load_parts(["optimizer"])["optimizer"]["param_groups"]
    return [(group["lr"], group["weight_decay"], group["initial_lr"]) for group in groups]


def test_a_run_that_paused_ends_with_the_bits_of_one_that_did_not(tmp_path: Path) -> None:
    whole = member(tmp_path, "0001")
    train_run(whole)
    legs = [member(tmp_path, "0002", until_epoch=1), member(tmp_path, "0002", until_epoch=2, resume=True)]
    assert [train_run(leg).status for leg in legs] == ["paused", "paused"]
    assert [row["epoch"] for row in stored_rows(legs[0])] == [1, 2]
    last = member(tmp_path, "0002", resume=True)
    assert train_run(last).status == "completed"
    assert same_bits(stored_weights(last), stored_weights(whole))
    assert stored_rows(last) == stored_rows(whole)


def test_a_pause_is_saved_whatever_every_epochs_says(tmp_path: Path) -> None:
    spec = member(tmp_path, "0001", {"checkpoint.every_epochs": 3}, until_epoch=2)
    train_run(spec)
    assert checkpoints_of(spec).infos()[-1].epoch == 2


def test_a_run_that_stands_at_its_pause_already_trains_nothing(tmp_path: Path) -> None:
    spec = member(tmp_path, "0001", until_epoch=1)
    train_run(spec)
    before = stored_weights(spec)
    assert train_run(member(tmp_path, "0001", until_epoch=1, resume=True)).status == "paused"
    assert same_bits(stored_weights(spec), before)
    assert len(stored_rows(spec)) == 1


def test_the_record_says_which_trial_and_which_part_a_run_is(tmp_path: Path) -> None:
    spec = member(tmp_path, "0001-fold2", {"train.epochs": 1}, trial_id="0001", part={"fold": 2})
    record = train_run(spec)
    assert (record.trial_id, record.part) == ("0001", {"fold": 2})


NEW: Changes = {
    "optimizer.lr": 0.003, "optimizer.weight_decay": 0.2, "train.label_smoothing": 0.1, "train.clip_norm": 0.7,
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> TrialSpec:
    """A member of a population, paused after its second epoch."""
    spec = member(tmp_path, "0001", until_epoch=2)
    train_run(spec)
    return spec


def test_a_clone_begins_with_the_weights_of_the_other_run_and_copies_no_file(source: TrialSpec, tmp_path: Path) -> None:
    clone = member(tmp_path, "0002", NEW, clone_of="0001", until_epoch=2)
    assert train_run(clone).status == "paused"
    assert same_bits(stored_weights(clone), stored_weights(source))
    assert stored_rows(clone) == stored_rows(source)
    assert len(checkpoints_of(clone).infos()) == 1


def test_a_clone_trains_on_with_the_values_of_its_own(source: TrialSpec, tmp_path: Path) -> None:
    clone = member(tmp_path, "0002", NEW, clone_of="0001")
    record = train_run(clone)
    assert [row["epoch"] for row in stored_rows(clone)] == [1, 2, 3]
    assert stored_rows(clone)[:2] == stored_rows(source)
    assert record.cloned_from == ["0001"]
    rates = group_settings(clone)
    assert [(decay, peak) for _, decay, peak in rates] == [(0.2, 0.003), (0.0, 0.003)]


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_the_very_next_step_has_the_new_rate(schedule: str, source: TrialSpec, tmp_path: Path) -> None:
    name: dict[str, Any] = {"schedule.name": schedule}
    train_run(member(tmp_path / "other", "0001", name, until_epoch=2))
    clone = member(tmp_path / "other", "0002", {**name, **NEW}, clone_of="0001", until_epoch=2)
    train_run(clone)  # saved before any step of its own
    fresh = member(tmp_path / "other", "0003", {**name, **NEW}, until_epoch=2)
    train_run(fresh)
    assert group_settings(clone) == group_settings(fresh)


def test_a_clone_resumes_from_its_own_checkpoints_and_knows_its_origin(source: TrialSpec, tmp_path: Path) -> None:
    clone = member(tmp_path, "0002", NEW, clone_of="0001")
    with pytest.raises(InterruptedRunError):
        train_run(clone, stop_after=3)
    assert checkpoints_of(clone).infos()[-1].step == 2 * STEPS_PER_EPOCH + 3
    resumed = member(tmp_path, "0002", NEW, resume=True)
    assert train_run(resumed).cloned_from == ["0001"]
    assert [row["epoch"] for row in stored_rows(resumed)] == [1, 2, 3]


def test_a_member_that_becomes_a_clone_leaves_its_own_later_checkpoints(tmp_path: Path) -> None:
    train_run(member(tmp_path, "0001", until_epoch=1))
    train_run(member(tmp_path, "0002", until_epoch=2))
    clone = member(tmp_path, "0002", NEW, clone_of="0001", until_epoch=1)
    record = train_run(clone)
    assert [info.epoch for info in checkpoints_of(clone).infos()] == [1]
    assert same_bits(stored_weights(clone), stored_weights(member(tmp_path, "0001")))
    assert (record.attempts, record.cloned_from) == (1, ["0001"])


def test_a_clone_of_a_run_without_checkpoint_is_refused(source: TrialSpec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="begin from run 0009, which has no checkpoint"):
        train_run(member(tmp_path, "0002", clone_of="0009"))


def test_another_model_cannot_be_cloned(source: TrialSpec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.args"):
        train_run(member(tmp_path, "0002", {"model.args": {"width": 7}}, clone_of="0001"))


def test_a_run_may_go_on_with_new_values_where_the_spec_says_so(source: TrialSpec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"optimizer\.lr"):
        train_run(member(tmp_path, "0001", NEW, resume=True))
    spec = member(tmp_path, "0001", NEW, resume=True, new_values=True)
    assert train_run(spec).status == "completed"
    assert {peak for _, _, peak in group_settings(spec)} == {0.003}

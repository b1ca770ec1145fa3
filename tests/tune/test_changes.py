"""What a sweep that goes on may have changed."""

from typing import Any

import pytest

from tests.trainers.runs import EXPERIMENT
from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import Metric, SweepRecord, now
from tuneyard.tune.changes import refuse_changes


def resume_with(key: str, value: Any) -> None:
    """Resume a sweep of the tests' experiment with one key changed."""
    before = validate(EXPERIMENT, where="here").model_dump(mode="json")
    tree = validate(EXPERIMENT, where="here").model_dump(mode="json", exclude_unset=True)
    set_path(tree, key, value)
    record = SweepRecord(
        sweep_id="s1", name="quadrants", metric=Metric(name="val/accuracy", mode="max"), started=now(),
        experiment=before,
    )  # fmt: skip
    refuse_changes(record, validate(tree, where="here"), grows=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resources.hang_timeout_s", 60.0),
        ("resources.leave_within_s", 30.0),
        ("resources.max_restarts", 0),
        ("resources.spare_workers", 2),
        ("checkpoint.keep_last", 5),
    ],
)
def test_what_does_not_change_the_training_is_free_to_change(key: str, value: Any) -> None:
    resume_with(key, value)


def test_what_changes_the_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size was 12 when sweep s1 began, and is 24"):
        resume_with("train.batch_size", 24)

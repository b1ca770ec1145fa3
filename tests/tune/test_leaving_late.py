"""A sweep that is to stop, or to leave a machine, does not wait for a trial that cannot."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune.sweeps import Heard, ray_of_two_cores, sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray of two cores for all sweeps here."""
    yield from ray_of_two_cores()


def test_a_trial_that_does_not_stop_in_time_is_ended_and_says_what_is_durable(local_ray: None, tmp_path: Path) -> None:
    asked: list[float] = []

    def first_epoch_is_over(heard: Heard) -> bool:
        if ("0001", 1) in heard.rows:
            asked.append(time.monotonic())
        return bool(asked)

    hangs = {"model.args": {"kind": "hangs"}, "tune.trials": 1, "resources.leave_within_s": 4.0}
    swept = sweep(tmp_path, hangs, stop_when=first_epoch_is_over)
    assert time.monotonic() - asked[0] < 30.0
    assert swept.sweep.status == "interrupted"
    record = swept.records["0001"]
    assert record.status == "interrupted"
    assert record.error == (
        "run 0001 was stopped and did not save within resources.leave_within_s: 4. "
        "The newest durable checkpoint: that of step 8 (epoch 1)."
    )
    assert swept.heard.ended == {"0001": ("interrupted", record.error)}

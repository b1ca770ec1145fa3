"""Measuring a configuration's pace: which seconds count, and what becomes of configurations that cannot be trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers import runs
from tuneyard.trainers import pace
from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.errors import DivergedError
from tuneyard.trainers.pace import OutOfMemoryHereError, Stopwatch, measure_pace
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec

HUNGRY = '''


class Hungry(nn.Module):
    """Takes more than so many images at a time for too many; the check before training has two."""

    def __init__(self, channels: int, classes: int, most: int) -> None:
        super().__init__()
        self.inner, self.most = plain(channels, classes), most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return self.inner(images)
'''


@pytest.fixture
def session() -> Iterator[Session]:
    threads = torch.get_num_threads()
    yield Session(threads=1, cpu=True)
    torch.set_num_threads(threads)


def spec(folder: Path, changes: dict[str, Any]) -> TrialSpec:
    runs.make_project(folder)
    task = folder / "task.py"
    task.write_text(task.read_text() + HUNGRY)
    tree: dict[str, Any] = {
        "name": "paced",
        "data": {"source": "npz:data.npz", "image_size": 8, "validation": {"split": 0.2}},
        "model": {"name": "task.py:plain"},
        "train": {"epochs": 2, "batch_size": 12},
    }
    for key, value in changes.items():
        set_path(tree, key, value)
    return TrialSpec(
        run_id="paced", experiment=validate(tree, where="test_pace.py"), project_dir=str(folder), store_uri="",
        tracking_dir="",
    )  # fmt: skip


def test_an_epoch_is_its_steps_and_its_validation(tmp_path: Path, session: Session) -> None:
    # 96 images and 24 to validate on, in batches of 12: ten forward passes of 20 ms or more.
    measured = measure_pace(spec(tmp_path, {"model.args.wait_s": 0.02}), session, steps=9)
    assert len(measured.epoch_s) == 3
    validation_s = min(measured.epoch_s) - 8 * 12 / measured.images_per_s
    assert min(measured.epoch_s) - validation_s > 0.155
    assert validation_s > 0.038
    assert measured.images_per_s < 12 / 0.02
    assert measured.parameters > 100
    assert measured.build_s > 0
    assert {path.name for path in tmp_path.iterdir()} <= {"data.npz", "task.py", "__pycache__"}


def test_several_workers_share_the_steps(tmp_path: Path, session: Session) -> None:
    trained = spec(tmp_path, {"model.args.wait_s": 0.05})
    alone = min(measure_pace(trained, session, steps=3).epoch_s)
    shared = min(measure_pace(trained, session, steps=3, workers=3).epoch_s)
    # As many steps, of a third of the images each; what a step waits for here does not depend on them.
    assert shared == pytest.approx(alone, rel=0.4)


def test_what_does_not_fit_into_memory_says_so(tmp_path: Path, session: Session) -> None:
    hungry = {"model": {"name": "task.py:Hungry", "args": {"most": 6}}}
    with pytest.raises(OutOfMemoryHereError, match="out of memory: CUDA out of memory"):
        measure_pace(spec(tmp_path, hungry), session, steps=3)


def test_numbers_that_are_not_finite_are_as_quick(tmp_path: Path, session: Session) -> None:
    poisoned = {"model": {"name": "task.py:Poisoned", "args": {"after": 9}}}
    assert measure_pace(spec(tmp_path, poisoned), session, steps=9).epoch_s
    with pytest.raises(DivergedError):
        measure_pace(spec(tmp_path, poisoned), session, steps=3000)


def test_the_stopwatch_leaves_out_the_warm_up_and_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tuneyard.trainers.pace.time.perf_counter", lambda: now[0])
    watch, loss = Stopwatch(6, torch.device("cpu")), torch.zeros(())
    step_s = [9.0] * pace.WARM_UP_STEPS + [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    for place, seconds in enumerate(step_s):
        if place % 4 == 0:
            now[0] += 100.0  # a validation
            watch.epoch_begins(place // 4, 4, 0)
        assert not watch.enough
        now[0] += seconds
        watch.step_done(1, loss)
    assert watch.enough
    assert watch.seconds_per_step == [1.0, 2.0, 3.0]

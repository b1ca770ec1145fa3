"""What the tracking process does with a message, and what the trackers are given."""

import io
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from tuneyard.trainers.tracking import sinks as tracking_sinks
from tuneyard.trainers.tracking.process import Replay, Reporter, read_frame, write_frame
from tuneyard.trainers.tracking.sinks import mosaic


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tuneyard\[wandb\]'"):
        tracking_sinks.AccelerateSink("wandb", {})


def test_a_message_that_was_cut_off_ends_the_pipe() -> None:
    pipe = io.BytesIO()
    write_frame(pipe, {"op": "text"}, b"12345")
    whole = pipe.getvalue()
    assert read_frame(io.BytesIO(whole)) == ({"op": "text"}, b"12345")
    assert [read_frame(io.BytesIO(whole[:cut])) for cut in range(len(whole))] == [None] * len(whole)


class FakeSink:
    """A tracker that fails where it is told to."""

    def __init__(self, name: str, fails: bool) -> None:
        self.name, self.fails, self.texts = name, fails, list[str]()

    def metrics(self, values: dict[str, float], step: int, epoch: int) -> None:
        raise NotImplementedError

    def page(self, title: str, page: Image.Image, step: int) -> None:
        raise NotImplementedError

    def confusion(self, matrix: tracking_sinks.Counts, classes: Sequence[str], step: int, epoch: int) -> None:
        raise NotImplementedError

    def text(self, name: str, text: str) -> None:
        self.texts.append(name)
        if self.fails:
            raise OSError("no space left")

    def finish(self, status: str | None) -> None:
        self.texts.append(str(status))


def test_a_failing_tracker_is_said_once_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good, reports = FakeSink("bad", True), FakeSink("good", False), io.BytesIO()
    monkeypatch.setattr(tracking_sinks, "AccelerateSink", lambda name, message: {"bad": bad, "good": good}[name])
    replay = Replay(Reporter(reports))
    replay.handle(
        {"op": "begin", "run": 1, "comet": None, "also": ["bad", "good"], "experiment": {}, "diff": "+"}
        | {"command": sys.argv},
        b"",
    )
    replay.handle({"op": "finish", "status": "completed"}, b"")
    problems = [line for line in reports.getvalue().splitlines() if b"problem" in line]
    assert good.texts == ["experiment.yaml", "git.diff", "completed"]
    assert bad.texts == ["experiment.yaml"]
    assert len(problems) == 1
    assert b"no space left" in problems[0]


def test_a_page_shows_each_image_in_its_place_and_enlarged() -> None:
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[1, 0, 1] = [255, 0, 0]
    page = mosaic(images, ["", "", ""])
    assert page.getpixel((112 + 84, 28)) == (255, 0, 0)
    assert page.getpixel((112 + 28, 28)) == (0, 0, 0)
    assert page.getpixel((112 + 28, 126 + 28)) == (255, 255, 255)


def test_a_page_of_large_images_is_shrunk() -> None:
    page = mosaic(np.zeros((16, 1024, 512, 3), np.uint8), [""] * 16)
    assert max(page.size) < 2300

"""What a sweep shows while it runs: plain lines in a log, a table in a terminal."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from tuneyard.launch.sweep_view import SweepView
from tuneyard.trainers.config.search import Domain, TuneConfig

CONFIG = TuneConfig(trials=5, space={"x": Domain(choice=[1, 2])})


def show(*, terminal: bool, width: int = 120, overrides: dict[str, Any] | None = None) -> str:
    """Two trials of a resumed sweep, one completed and one failed."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=width, highlight=False, no_color=True)
    with SweepView(CONFIG, 3, console, trials=5, ended=2) as view:
        view.trial_began("0003", overrides or {"optimizer.lr": 0.00123456, "model.name": "[bold]"})
        view.trial_began("0004", {"optimizer.lr": 0.1})
        view.epoch_ended("0003", {"epoch": 1, "val/accuracy": 0.75, "images_per_s": 1234.5})
        view.epoch_ended("0003", {"epoch": 2, "val/accuracy": float("nan"), "images_per_s": 1000.0})
        view.trial_ended("0003", "completed", None)
        view.trial_ended("0004", "failed", "RuntimeError: out of luck\n\nTraceback: …")
    return output.getvalue()


def test_a_log_has_a_line_for_each_beginning_and_end() -> None:
    lines = [line.split(" s  ", 1)[1] for line in show(terminal=False).splitlines()]
    assert lines == [
        "trial 0003 began: lr=0.00123  name=[bold]",
        "trial 0004 began: lr=0.1",
        "[3/5] trial 0003 completed after epoch 2, best val/accuracy 0.7500",
        "[4/5] trial 0004 failed after epoch 0, best val/accuracy -: RuntimeError: out of luck",
    ]


def test_a_terminal_shows_a_table_and_keeps_the_line_of_a_failure() -> None:
    shown = show(terminal=True)
    assert "4 of 5 trials" in shown
    assert "name=[bold]" in shown
    assert "trial 0004 failed after epoch 0, best val/accuracy -: RuntimeError: out of luck" in shown
    assert "trial 0003 completed" not in shown


@pytest.mark.parametrize("width", [60, 80])
def test_in_a_narrow_terminal_the_parameters_give_way(width: int) -> None:
    shown = show(terminal=True, width=width, overrides={f"model.args.key{number}": 0.5 for number in range(30)})
    assert "0003" in shown
    assert "completed" in shown
    assert "0.7500" in shown
    assert "…" in shown


def test_before_the_first_trial_there_is_a_clock() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    with SweepView(CONFIG, 3, console, trials=5, ended=0):
        pass
    assert re.search(r"0 of 5 trials, \d+:\d\d", output.getvalue())

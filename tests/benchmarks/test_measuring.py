"""Tests for what the benchmarks share."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, found as the scripts find it: in their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("measuring")


def test_ratios_are_taken_within_a_round(measuring: Any) -> None:
    # The second round met a machine four times as slow: the ratio of the medians would be 1.0.
    ours, theirs = measuring.Series((4.0, 1.0, 9.0), "s"), measuring.Series((8.0, 2.0, 4.0), "s")

    found = measuring.ratios(ours, theirs)

    assert found.values == (0.5, 0.5, 2.25)
    assert found.median == 0.5


def test_who_begins_rotates(measuring: Any) -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[int], float]:
        def measure(number: int) -> float:
            calls.append(name)
            return float(number)

        return measure

    found = measuring.in_turns({name: side(name) for name in "abc"}, 3, "s")

    assert "".join(calls) == "abcbcacab"
    assert found["b"].values == (0.0, 1.0, 2.0)


@pytest.mark.parametrize(("bound", "met"), [("at least", False), ("at most", True)])
def test_a_missed_target_fails_the_run(
    measuring: Any, bound: str, met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"speed": measuring.Series((1.0, 2.0, 30.0), "images/s")}

    status = measuring.report("example", figures, {}, [measuring.Target("speed", bound, 2.5)])

    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["pass"] is met
    assert status == (0 if met else 1)
    assert line["figures"]["speed"] == {"median": 2.0, "min": 1.0, "max": 30.0, "rounds": 3, "unit": "images/s"}


def test_a_figure_that_is_no_number_meets_no_target(measuring: Any) -> None:
    assert not measuring.Target("x", "at least", 0.0).met(float("nan"))
    assert not measuring.Target("x", "at most", 0.0).met(float("nan"))


def test_a_missing_package_is_named_with_what_to_install(measuring: Any) -> None:
    with pytest.raises(SystemExit, match=r"no_such_peer.*pip install 'tuneyard\[bench\]'"):
        measuring.require("json", "no_such_peer")

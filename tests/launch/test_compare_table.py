"""The table in the terminal: what it shows, and what it gives up in a narrow one."""

import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from tests.tune.records import store_at, write_big_sweep, write_run, write_sweep
from tests.tune.trial_records import write_rich_sweep
from tuneyard.launch.compare_table import Column, fitting, render, short_names, show, sparkline
from tuneyard.tune.reports.comparison import compare


def printed(folder: Path, width: int, limit: int | None = None) -> list[str]:
    """The lines that `render` prints into a terminal of this width."""
    page = io.StringIO()
    render(compare([str(folder)]), Console(file=page, width=width), limit)
    return [line.rstrip() for line in page.getvalue().splitlines()]


def table_of(lines: list[str]) -> list[list[str]]:
    """The table's rows as words, with its heading first."""
    start = next(i for i, line in enumerate(lines) if line.startswith("run "))
    rows = [line.split() for line in lines[start:]]
    return rows[: next((i for i, row in enumerate(rows) if not row or row[0] not in {"run", *RUNS}), len(rows))]


RUNS = [f"t{number:04d}" for number in range(12)]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    write_big_sweep(store_at(tmp_path), 12)
    lines = printed(tmp_path, width)
    assert max(len(line) for line in lines if "://" not in line) <= width
    assert sum("://" in line and "checkpoints" in line for line in lines) == 1, "the address is whole, on one line"
    assert len(table_of(lines)) == 12


def test_eighty_columns_show_the_run_the_metric_and_every_swept_setting(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path), 12)
    heading, *rows = table_of(printed(tmp_path, 80))
    assert heading == ["run", "val/accuracy", "status", "lr", "name", "batch_size"]
    assert [row[0] for row in rows] == [run.record.run_id for run in compare([str(tmp_path)]).runs[:-1]]


def test_a_wide_terminal_shows_everything(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path), 12)
    lines = printed(tmp_path, 150)
    assert table_of(lines)[0][-5:] == ["last", "val/loss", "time", "images/s", "curve"]
    assert not any("want of width" in line for line in lines)


def test_long_run_ids_are_told_by_their_ends(tmp_path: Path) -> None:
    write_run(store_at(tmp_path), "20261121-205801-a-rather-long-name-0001/", [0.5])
    lines = printed(tmp_path, 80)
    assert any(line.startswith("…1-a-rather-long-name-0001 ") for line in lines)


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path), 12)
    lines = printed(tmp_path, 80, limit=3)
    assert "Not shown, for want of width: last, val/loss, time, images/s." in lines
    assert "8 more runs are not shown." in lines


def test_failed_runs_stand_below_with_their_cause_told_once(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    for name in ("b/", "c/"):
        write_run(
            store, name, [], status="failed", error="Traceback (most recent call last):\n  x\nValueError: [red]bad"
        )
    lines = printed(tmp_path, 80)
    assert lines[lines.index("failed") + 1 :] == ["b and 1 more: ValueError: [red]bad"]


def test_the_headline_names_the_best_run_and_its_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5, 0.75], checkpoints=[20])
    write_run(store, "b/", [], status="running")
    headline, best, _checkpoint = printed(tmp_path, 200)[:3]
    assert headline == "fashion · 2 runs: 1 completed, 1 running"
    assert best == "highest val/accuracy: 0.7500, epoch 2 of a"
    assert f"{store.uri}/a/checkpoints/0000000020" in printed(tmp_path, 400)


def test_a_sweep_without_runs_is_said_to_have_none(tmp_path: Path) -> None:
    write_sweep(store_at(tmp_path), "sweep/", [])
    assert printed(tmp_path, 80) == ["fashion · 0 runs: none yet", "No run has a value of val/accuracy yet."]


def test_reasons_for_caution_are_printed_whole(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    write_run(store, "a/", [0.5])
    write_run(store, "b/", [0.6], fingerprint="other")
    assert "not comparable." in " ".join(printed(tmp_path, 60))


def test_the_highest_rank_is_left_out_first_and_the_first_two_columns_never() -> None:
    columns = [Column(title, ["x" * 10], rank) for title, rank in [("a", 0), ("b", 9), ("c", 2), ("d", 3), ("e", 3)]]
    assert [column.title for column in fitting(columns, 58)] == ["a", "b", "c", "d", "e"]
    assert [column.title for column in fitting(columns, 57)] == ["a", "b", "c", "d"]
    assert [column.title for column in fitting(columns, 5)] == ["a", "b"]


def test_a_sparkline_goes_from_the_lowest_to_the_highest_with_gaps() -> None:
    assert sparkline([0.0, 0.5, math.nan, 1.0]) == "▁▅ █"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([math.nan, math.inf]) == "  "
    assert sparkline([]) == ""


def test_keys_are_shortened_as_far_as_they_stay_different() -> None:
    keys = ["optimizer.name", "model.name", "optimizer.lr", "model.args.width", "other.args.width"]
    assert short_names(keys) == ["optimizer.name", "model.name", "lr", "model.args.width", "other.args.width"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00312345, "0.003123"),
        (1e-05, "1e-05"),
        (64, "64"),
        (True, "yes"),
        (None, "—"),
        ("sgd", "sgd"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_settings_are_shown_in_few_characters(value: object, text: str) -> None:
    assert show(value) == text


def test_a_sweep_of_folds_has_a_row_for_each_trial(tmp_path: Path) -> None:
    write_rich_sweep(store_at(tmp_path), 4)
    lines = printed(tmp_path, 130)
    assert lines[0] == "fashion · 4 trials of 32 runs: 3 completed, 1 stopped"
    assert re.match(r"highest val/accuracy: 0\.\d{4} ± 0\.\d{4}, over 5 folds of 0000", lines[1])
    start = next(i for i, line in enumerate(lines) if line.startswith("trial "))
    rows = lines[start + 1 : start + 5]
    assert [row.split()[0] for row in rows][-1] == "0002", "with two of five folds it stands behind the others"
    assert "2/5 folds" in rows[-1]
    assert [" ★ " in row for row in rows].count(True) == 2


def test_the_front_the_confirmation_and_what_ended_the_sweep_are_told(tmp_path: Path) -> None:
    write_rich_sweep(store_at(tmp_path), 4)
    text = "\n".join(printed(tmp_path, 200))
    assert "★ on the Pareto front of val/accuracy (max), images_per_s (max)" in text
    assert "confirmed over 5 seeds\n0000  0.9300 ± 0.00" in text
    assert "cannot be told apart by 5 seeds" in text
    assert "ended: The budget is used up: 2.5 of 2.5 GPU-hours" in text
    assert "spent: 1.25 hours, 2.5 GPU-hours, 3 USD" in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_sweep_of_folds_fits_into_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    write_rich_sweep(store_at(tmp_path), 4)
    assert max(len(line) for line in printed(tmp_path, width) if "://" not in line) <= width

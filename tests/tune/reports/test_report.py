"""The HTML report: its bytes, and what a real browser makes of them."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tune.records import store_at, write_big_sweep, write_run
from tests.tune.trial_records import write_rich_sweep
from tuneyard.trainers.errors import StoreError
from tuneyard.tune.reports.comparison import compare
from tuneyard.tune.reports.report import report_html, script_json, write_report

NASTY = '</script><script>console.error("escaped")</script><img src=x onerror=alert(1)> & {{data}} <!--'
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --dump-dom"
)


def report(folder: Path) -> str:
    return report_html(compare([str(folder)]))


def embedded(page: str) -> str:
    """The text between the data element's tags, which the browser's parser would see."""
    return page.split('<script type="application/json" id="data">')[1].split("</script>")[0]


def dom(page: str, folder: Path, then: str = "") -> str:
    """The page's DOM after its script, and the script `then`, ran in Chromium; fails on any message on its console."""
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed (Debian: apt-get install chromium)"
    file = folder / "page.html"
    file.write_text(page.replace("</body>", f"<script>{then}</script></body>"), encoding="utf-8")
    command = [
        chromium,
        *CHROMIUM.split(),
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1280,1600",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    # The page's own script holds no markup that a test looks for, but its data does.
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def texts(found: list[str]) -> list[str]:
    """The texts of elements, without tags and entities."""
    return [html.unescape(re.sub(r"<[^>]+>", "", text)) for text in found]


def first_cells(page_dom: str) -> list[str]:
    return texts(re.findall(r'<th scope="row">(.*?)</th>', page_dom))


def test_the_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path / "runs"), 3)
    write_report(compare([str(tmp_path / "runs")]), tmp_path / "new" / "report.html")
    page = (tmp_path / "new" / "report.html").read_text()
    assert not re.findall(r"<link|<img|<iframe|@import|url\(|\bsrc=|\bfetch\(", page.replace(embedded(page), ""))
    assert "default-src 'none'" in page


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path), 12)
    assert report(tmp_path) == report(tmp_path)


def test_the_data_are_strict_json_with_every_curve(tmp_path: Path) -> None:
    write_run(store_at(tmp_path), "a/", [0.5, float("nan"), 1 / 3])
    (run,) = json.loads(embedded(report(tmp_path)), parse_constant=pytest.fail)["runs"]
    assert run["history"]["val/accuracy"] == [0.5, None, 0.333333]
    assert run["history"]["epoch"] == [1, 2, 3]


def test_script_json_survives_what_html_would_read_as_markup() -> None:
    text = script_json({"name": NASTY})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": NASTY}


def test_names_of_users_stand_in_the_title_as_text(tmp_path: Path) -> None:
    write_run(store_at(tmp_path), "a/", [0.5], status="failed", error=NASTY)
    page = report(tmp_path)
    assert "<title>fashion · val/accuracy</title>" in page
    assert page.count("</script>") == 2
    assert json.loads(embedded(page))["runs"][0]["error"] == NASTY


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    write_run(store_at(tmp_path / "runs"), "a/", [0.5])
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(compare([str(tmp_path / "runs")]), tmp_path / "runs")


@pytest.mark.chromium
def test_a_browser_shows_a_row_a_curve_and_a_point_for_each_run(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path / "runs"), 12)
    page = dom(report(tmp_path / "runs"), tmp_path)
    comparison = compare([str(tmp_path / "runs")])
    assert first_cells(page) == list(comparison.labels)
    assert (
        len(re.findall(r'<path class="curve[^"]*" d="M[\d.]+ [\d.]+L', page)) == 11
    )  # one trial failed before an epoch
    assert len(re.findall(r"<circle", page)) == 11 * len(comparison.differing)
    assert "optimizer.lr (log)" in page
    assert "1 failed run" in page
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried 2.50 GiB" in page


@pytest.mark.chromium
def test_a_click_on_a_heading_sorts_and_on_a_row_highlights_its_curve(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path / "runs"), 6)
    click = """
        [...document.querySelectorAll("thead button")].find(each => each.textContent === "lr").click();
        document.querySelector("tbody tr").click();
    """
    page = dom(report(tmp_path / "runs"), tmp_path, click)
    comparison = compare([str(tmp_path / "runs")])
    by_lr = sorted(comparison.runs, key=lambda run: run.record.overrides["optimizer.lr"])
    assert first_cells(page) == [run.record.run_id for run in by_lr]
    (chosen,) = re.findall(r'<path class="curve[^"]*chosen[^"]*"[^>]*data-run="(\d+)"', page)
    assert comparison.runs[int(chosen)] == by_lr[0]
    assert len(re.findall(r'<path class="other"', page)) == 1
    assert f"{by_lr[0].uri}/checkpoints/" in re.findall(r'<div class="detail">.*?</dl>', page, re.DOTALL)[0]


@pytest.mark.chromium
def test_choosing_another_metric_redraws_the_curves(tmp_path: Path) -> None:
    write_big_sweep(store_at(tmp_path / "runs"), 2)
    choose = """
        const select = document.querySelector("select");
        select.value = "train/loss"; select.dispatchEvent(new Event("change"));
    """
    page = dom(report(tmp_path / "runs"), tmp_path, choose)
    assert 'aria-label="train/loss by epoch, one curve for each run"' in page
    assert len(re.findall(r'<path class="curve', page)) == 2


@pytest.mark.chromium
def test_pointing_at_a_curve_tells_its_run_and_value(tmp_path: Path) -> None:
    write_run(store_at(tmp_path / "runs"), "a/", [0.5, 0.75])
    write_run(store_at(tmp_path / "runs"), "b/", [0.25, 0.3])
    point = """
        const curve = document.querySelector('path[data-run="0"]');
        const svgBox = curve.ownerSVGElement.getBoundingClientRect();
        const end = curve.getPointAtLength(curve.getTotalLength());
        const at = { clientX: svgBox.left + end.x, clientY: svgBox.top + end.y, bubbles: true };
        curve.dispatchEvent(new PointerEvent("pointermove", at));
    """
    page = dom(report(tmp_path / "runs"), tmp_path, point)
    (tip,) = texts(re.findall(r'<div id="tip"[^>]*>(.*?)</div>', page, re.DOTALL))
    assert tip.splitlines() == ["a · epoch 2", "val/accuracy: 0.7500"]
    assert re.findall(r'<path class="curve[^"]*hot[^"]*"[^>]*data-run="(\d+)"', page) == ["0"]


@pytest.mark.chromium
def test_markup_in_an_error_is_shown_and_not_run(tmp_path: Path) -> None:
    write_run(store_at(tmp_path / "runs"), "a/", [0.5], status="failed", error=NASTY, settings={"model.name": NASTY})
    write_run(store_at(tmp_path / "runs"), "b/", [0.6])
    page = dom(report(tmp_path / "runs"), tmp_path)
    assert "<img" not in page
    assert texts(re.findall(r"<pre>(.*?)</pre>", page)) == [NASTY]
    assert NASTY in texts(re.findall(r"<td[^>]*>(.*?)</td>", page))


@pytest.mark.chromium
def test_a_sweep_of_folds_shows_trials_and_their_parts_where_one_is_chosen(tmp_path: Path) -> None:
    write_rich_sweep(store_at(tmp_path / "runs"), 4)
    page = dom(report(tmp_path / "runs"), tmp_path, "choose(0);")
    comparison = compare([str(tmp_path / "runs")])
    stars = ["★" if front else "" for front in comparison.on_front]
    assert first_cells(page) == [label + star for label, star in zip(comparison.labels, stars, strict=True)]
    assert len(re.findall(r'<path class="curve', page)) == 4
    assert len(re.findall(r'<path class="part', page)) == 3 * 5 + 2
    parts = texts(
        re.findall(r"<td[^>]*>(.*?)</td>", re.findall(r'<table class="parts">.*?</table>', page, re.DOTALL)[0])
    )
    assert parts[:2] == ["0000-fold0", "fold 0"]
    assert parts[5 * 6 : 5 * 6 + 2] == ["0000-seed1", "confirms: seed 1"]
    assert re.search(r"0\.\d{4} ± 0\.\d{4}, mean and standard deviation of 5 runs", page)


@pytest.mark.chromium
def test_the_front_the_confirmation_and_what_ended_the_sweep_are_shown(tmp_path: Path) -> None:
    write_rich_sweep(store_at(tmp_path / "runs"), 4)
    page = dom(report(tmp_path / "runs"), tmp_path)
    (front,) = re.findall(
        r'<svg[^>]*aria-label="val/accuracy against images_per_s, the Pareto front marked".*?</svg>', page
    )
    assert len(re.findall(r"<circle", front)) == 4
    assert len(re.findall(r'<circle[^>]*fill="var\(--best\)"', front)) == 2
    (seeds,) = re.findall(r'<svg[^>]*aria-label="val/accuracy of each confirmed trial over seeds".*?</svg>', page)
    assert (len(re.findall(r'class="spread"', seeds)), len(re.findall(r"<circle", seeds))) == (3, 18)
    words = " ".join(texts(re.findall(r"<p[^>]*>(.*?)</p>", page)))
    assert "cannot be told apart by 5 seeds" in words
    assert "Ended: The budget is used up" in words
    assert "2 trials on the Pareto front" in words

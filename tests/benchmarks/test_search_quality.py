"""The player of recorded curves, on tables that are small enough to count the epochs by hand."""

import gzip
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script as it finds the others: in their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def table(scripts: Any, folder: Path, trials: list[tuple[float, str, list[float]]]) -> Any:
    """Curves of three epochs over one number and one choice."""
    written = {
        "metric": "m", "epochs": 3, "space": {"x": {"loguniform": [0.01, 1.0]}, "c": {"choice": ["a", "b"]}},
        "trials": [{"overrides": [x, c], "values": values} for x, c, values in trials],
    }  # fmt: skip
    path = folder / "curves.json.gz"
    path.write_bytes(gzip.compress(json.dumps(written).encode()))
    return scripts("recorded").Recorded.load(path)


TRIALS = [(0.01, "a", [0.1, 0.2, 0.3]), (0.1, "a", [0.1, 0.9, 1.0]), (1.0, "b", [0.2]), (0.1, "b", [0.1, 0.2, 0.98])]


def test_a_wish_is_answered_by_the_nearest_configuration_that_is_left(scripts: Any, tmp_path: Path) -> None:
    recorded = table(scripts, tmp_path, TRIALS)
    pool = scripts("recorded").Pool(recorded)
    # By the logarithm 0.05 is nearer to 0.1 than to 0.01; and another choice is further away than half of the range.
    assert pool.take({"x": 0.05, "c": "a"}).overrides == {"x": 0.1, "c": "a"}
    assert pool.take({"x": 0.05, "c": "a"}).overrides == {"x": 0.01, "c": "a"}
    assert pool.take({"x": 0.05, "c": "a"}).overrides == {"x": 0.1, "c": "b"}
    assert len(pool) == 1


def test_after_a_curve_that_diverged_there_is_no_number(scripts: Any, tmp_path: Path) -> None:
    curve = table(scripts, tmp_path, TRIALS).curves[2]
    assert curve.at(1) == 0.2
    assert math.isnan(curve.at(2))


class InOrder:
    """A peer that takes the curves as they come."""

    def __init__(self, recorded: Any) -> None:
        self.left = list(recorded.curves)
        self.ends: list[int] = []

    def begin(self) -> Any:
        return (None, self.left.pop(0)) if self.left else None

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        return math.isfinite(value)

    def ended(self, run: Any, epoch: int, value: float) -> None:
        self.ends.append(epoch)


@pytest.mark.parametrize(
    ("workers", "spent"),
    # One by one: 3 + 3. Side by side the second curve's third epoch is the sixth; of three at a time one diverges.
    [(1, 6), (2, 6), (3, 8)],
)
def test_the_epochs_of_all_trials_count_until_one_comes_close(
    scripts: Any, tmp_path: Path, workers: int, spent: int
) -> None:
    quality, recorded = scripts("search_quality"), table(scripts, tmp_path, TRIALS)
    side = quality.AsLegs(InOrder(recorded), recorded.epochs)
    assert quality.epochs_until_close(side, recorded, workers) == spent


def test_a_side_that_never_comes_close_is_charged_with_everything(scripts: Any, tmp_path: Path) -> None:
    quality, recorded = scripts("search_quality"), table(scripts, tmp_path, TRIALS)
    peer = InOrder(recorded)
    del peer.left[1]
    assert quality.epochs_until_close(quality.AsLegs(peer, 3), recorded, 1) == 12
    assert peer.ends == [3, 2, 3]


def test_ours_and_the_peers_find_the_best_of_a_table(scripts: Any, tmp_path: Path) -> None:
    quality = scripts("search_quality")
    trials = [
        (10 ** (-2 + place / 10), "ab"[place % 2], [place / 20 + epoch for epoch in range(3)]) for place in range(18)
    ]
    recorded = table(scripts, tmp_path, trials)
    for name, make in quality.makers().items():
        spent = quality.epochs_until_close(make(recorded, 1), recorded, 2)
        assert 3 <= spent <= 54, name
        assert spent == quality.epochs_until_close(make(recorded, 1), recorded, 2), name


def test_a_sweep_is_exported(scripts: Any, tmp_path: Path) -> None:
    domain: dict[str, Any] = {"uniform": [0.0, 1.0], "choice": None, "when": {}}
    experiment = {"train": {"epochs": 2}, "tune": {"metric": "m", "space": {"x": domain}}}
    for run_id, status, values in [
        ("0001", "completed", [0.5, 0.25]),
        ("0002", "running", [0.1]),
        ("0003", "failed", []),
    ]:
        folder = tmp_path / run_id
        folder.mkdir()
        record = {"run_id": run_id, "status": status, "experiment": experiment, "overrides": {"x": len(values) / 4}}
        (folder / "run.json").write_text(json.dumps(record))
        if values:
            (folder / "metrics.jsonl").write_text("".join(json.dumps({"m": value}) + "\n" for value in values))
    assert scripts("export_curves").curves(tmp_path) == {
        "metric": "m", "epochs": 2, "space": {"x": {"uniform": [0.0, 1.0]}},
        "trials": [{"overrides": [0.5], "values": [0.5, 0.25]}, {"overrides": [0.0], "values": []}],
    }  # fmt: skip


def test_the_recorded_curves_can_be_read(scripts: Any) -> None:
    recorded = scripts("recorded").Recorded.load()
    assert len(recorded.curves) > 50
    assert recorded.epochs == 27
    assert 0.8 < recorded.best < 1.0

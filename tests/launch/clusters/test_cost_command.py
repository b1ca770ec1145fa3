import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tuneyard.cluster.errors import ClusterError
from tuneyard.launch.clusters.app import app


def cost(*words: str) -> str:
    done = CliRunner().invoke(app, ["cost", *words], catch_exceptions=False, env={"COLUMNS": "100"})
    assert done.exit_code == 0
    return done.output


def plan(tmp_path: Path, gpu: str | None) -> Path:
    path = tmp_path / "plan.json"
    hours = {"low": 80.0, "expected": 100.0, "high": 130.0}
    path.write_text(json.dumps({"plan": {"costs": {"gpu_hours": hours}}, "machine": {"gpu": gpu, "name": "1 x me"}}))
    return path


def test_machines_are_priced_by_the_hour() -> None:
    text = cost("m7i.xlarge", "g6.xlarge=4", "--spot")
    assert [line.split()[:3] for line in text.splitlines()][2] == ["g6.xlarge", "4", "spot"]
    assert "prices: AWS list prices, us-east-1, as of 2026-06-30" in text
    told: dict[str, Any] = json.loads(cost("m7i.xlarge", "g6.xlarge=4", "--json"))
    assert told["quote"]["hour"] == pytest.approx(0.2016 + 4 * 0.805)
    assert told["rent"] == told["buy"] == []


def test_a_plan_is_priced_on_every_machine_and_against_buying(tmp_path: Path) -> None:
    text = cost("--plan", str(plan(tmp_path, "NVIDIA L4")))
    assert "100 GPU-hours" in text
    assert "80.50" in text
    assert "! measured on NVIDIA L4, perhaps up to 130 hours; another GPU takes more or fewer" in text
    assert "8 x H100" in text
    assert "against spot" in text


def test_gpu_hours_can_be_guessed_for_one_machine() -> None:
    told = json.loads(cost("g6.xlarge", "--gpu-hours", "10", "--json"))
    (rented,) = told["rent"]
    assert rented["total"] == pytest.approx(8.05)
    assert told["buy"][0]["hours"] > 0


def test_without_anything_all_machines_are_listed() -> None:
    text = cost()
    assert "p5.48xlarge" in text
    assert "8 x H100" in text


def test_a_plan_without_a_gpu_or_no_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"measured without a GPU.*--gpu-hours N"):
        cost("--plan", str(plan(tmp_path, None)))
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ClusterError, match=r"is no plan: KeyError.*tuneyard plan EXP --json"):
        cost("--plan", str(tmp_path / "plan.json"))


def test_a_users_own_prices_take_the_place_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "as_of: 2020-01-01\nsource: my desk\ncurrency: EUR\n"
        "machines: [{name: mine, cores: 8, memory_gib: 64, gpus: 2, gpu: X, gpu_gib: 8, on_demand: 3}]\n"
    )
    text = cost("mine=2", "--prices", str(path))
    assert "EUR" in text
    assert "6.00" in text
    assert "months old (of 2020-01-01): give newer ones with --prices FILE" in text

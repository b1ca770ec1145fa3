"""`tuneyard plan`: what it measures and says, that it leaves nothing behind, and what it refuses."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tune.sweeps import built_in, experiment_tree, make_project
from tuneyard.launch.plan.basis import draw, find_prices, this_machine
from tuneyard.launch.plan.command import plan_command
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.errors import ConfigError

HUNGRY = '''


class Hungry(Net):
    """Takes a batch of more than six images for too much in training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kind == "hungry" and self.training and len(images) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(images)
'''
KINDS = {"model.name": "task.py:Hungry", "tune.space": {"model.args.kind": {"choice": ["good", "hungry"]}}}
GRID = KINDS | {"tune.search": "grid", "tune.trials": 2}


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def planned(
    folder: Path, changes: Mapping[str, Any], capsys: pytest.CaptureFixture[str], *, configs: int = 2,
    parallel: int | None = 1, as_json: bool = True,
) -> str:  # fmt: skip
    """What the command prints about the small sweep with these changes, measured over six steps."""
    make_project(folder)
    (folder / "task.py").write_text((folder / "task.py").read_text() + HUNGRY)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment_tree({"checkpoint.store": str(folder / "runs")} | dict(changes))))
    plan_command(path, [], configs=configs, steps=6, parallel=parallel, as_json=as_json)
    return capsys.readouterr().out


def experiment(changes: Mapping[str, Any]) -> Experiment:
    return validate(experiment_tree(changes), where="test_plan_command.py")


def test_the_plan_is_of_what_was_measured_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(planned(tmp_path, {"model.args": {"wait_s": 0.02}}, capsys))
    assert [len(one["pace"]["epoch_s"]) for one in told["measured"]] == [3, 3]
    # An epoch has eight steps and two batches to validate on, each of 20 ms or more.
    slowest = max(max(one["pace"]["epoch_s"]) for one in told["measured"])
    assert 0.18 < told["plan"]["epoch_s"]["low"] <= slowest
    assert told["plan"]["costs"]["epochs"] == {"low": 12.0, "expected": 12.0, "high": 12.0}
    assert told["plan"]["costs"]["hours"]["low"] > 12 * 0.18 / 3600
    # One core at a time, and the seconds before the first run cost nothing.
    money, hours = (told["plan"]["costs"][name]["expected"] for name in ("money", "hours"))
    assert 12 * 0.18 / 3600 < money / told["prices"]["cpu_hour"] < hours


def test_nothing_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(tmp_path, {}, capsys)
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"data.npz", "task.py", "trace.jsonl", "experiment.yaml"}
    assert len({line["pid"] for line in built_in(tmp_path)}) == 1


def test_the_table_says_what_it_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(tmp_path, {"tune.scheduler": "asha", "tune.trials": 6}, capsys, parallel=2, as_json=False)
    assert "quadrants · 6 trials, 2 at a time" in text
    assert "search random, scheduler asha, 3 epochs at most" in text
    assert "measured on this machine: " in text
    assert "trials to epoch 1" in text
    assert "trials to epoch 3" in text
    assert "none stopped" in text
    assert "prices: AWS list prices, us-east-1, c7i.xlarge, as of 2026-06-30" in " ".join(text.split())
    assert "budget" not in text


def test_what_does_not_fit_into_memory_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    text = " ".join(planned(tmp_path, GRID, capsys, as_json=False).split())
    assert "! left out, since it cannot be trained: model.args.kind=hungry: out of memory" in text
    assert "50% of the trials are taken to fail" in text


def test_where_the_sweep_would_accumulate_so_does_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(planned(tmp_path, GRID | {"train.on_out_of_memory": "accumulate"}, capsys))
    assert [one["error"] for one in told["measured"]] == [None, None]
    assert told["plan"]["failed"] == 0.0


def test_a_plan_needs_one_configuration_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = KINDS | {"tune.space": {"model.args.kind": {"choice": ["hungry"]}}, "tune.trials": 1}
    with pytest.raises(ConfigError, match="None of the 1 configurations can be trained here: out of memory"):
        planned(tmp_path, only, capsys)


def test_a_budget_is_held_against_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(tmp_path, {"tune.budget": {"hours": 1e-6}}, capsys, as_json=False)
    assert "budget: the sweep does not fit in." in text
    text = planned(tmp_path, {"tune.budget": {"hours": 100.0}}, capsys, as_json=False)
    assert "budget: the sweep fits in." in text


def test_a_mistake_is_told_as_by_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'val/accuracy'"):
        planned(tmp_path, {"tune.metric": "val/acuracy"}, capsys)
    assert not (tmp_path / "runs").exists()


def test_own_prices_take_the_place_of_the_tables() -> None:
    own = find_prices(experiment({"resources.prices": {"gpu_hour": 0.4, "currency": "EUR"}}), "NVIDIA L4")
    assert (own.prices.gpu_hour, own.prices.currency, own.source) == (0.4, "EUR", "resources.prices")
    table = find_prices(experiment({}), "NVIDIA L4")
    assert table.spot is not None
    assert 0 < table.spot.gpu_hour < table.prices.gpu_hour
    unknown = find_prices(experiment({}), "NVIDIA GeForce RTX 3090")
    assert unknown.prices.gpu_hour == 0.0
    assert "the table has no NVIDIA GeForce RTX 3090 (it has T4, A10G" in unknown.source


def test_a_run_takes_what_all_its_workers_take() -> None:
    machine = this_machine(experiment({"resources": {"workers": 3, "cpus_per_worker": 2, "gpus_per_worker": 0}}))
    assert (machine.workers, machine.cpus, machine.gpus, machine.gpu) == (3, 6.0, 0.0, None)
    assert machine.room >= 1


def test_every_trial_has_its_values_and_a_grid_no_more_than_its_points(tmp_path: Path) -> None:
    config = experiment({"tune.trials": 20, "tune.points": [{"optimizer.lr": 0.005}]}).tune
    assert config is not None
    values = [drawn["optimizer.lr"] for drawn in draw(config, tmp_path)]
    assert values[0] == 0.005
    assert len(set(values)) == 20
    assert all(0.001 <= value <= 0.05 for value in values)
    grid = experiment(GRID | {"tune.trials": 20}).tune
    assert grid is not None
    assert draw(grid, tmp_path) == [{"model.args.kind": "good"}, {"model.args.kind": "hungry"}]

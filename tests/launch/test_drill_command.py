"""`tuneyard drill` kills a worker of a real run and says what came of it."""

import json
from pathlib import Path

import pytest

from tests.launch.test_train_command import call, write_experiment
from tuneyard.launch.drill_command import drill_command
from tuneyard.trainers.errors import ConfigError

CHANGES = {
    "model.args": {"wait_s": 0.03}, "train.epochs": 2000,
    "resources": {"gpus_per_worker": 0, "cpus_per_worker": 1, "hang_timeout_s": 1.0},
}  # fmt: skip


@pytest.mark.timeout(300)
def test_a_drill_reports_what_the_loss_cost(tmp_path: Path) -> None:
    write_experiment(tmp_path, CHANGES)
    status, out, err = call(tmp_path, "drill", "experiment.yaml", "--json", "--signal", "STOP")
    assert status == 0, err
    told = json.loads(out)
    assert (told["went_on"], told["worker"], told["signal"]) == (True, 0, "SIGSTOP")
    assert 0 < told["noticed_s"] < told["first_step_s"]
    assert told["steps_again"] == told["step"] - told["checkpoint_step"] >= 2
    record = json.loads((tmp_path / "runs" / "quadrants" / told["run_id"] / "run.json").read_text())
    assert (record["status"], record["attempts"]) == ("interrupted", 2)


@pytest.mark.parametrize(
    ("worker", "kill_with", "message"),
    [(None, "HUP", "--signal HUP: allowed are KILL .* and STOP"), (3, "KILL", r"--worker 3: the run has 1 worker")],
)
def test_what_a_drill_refuses(
    worker: int | None, kill_with: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path, CHANGES)
    with pytest.raises(ConfigError, match=message):
        drill_command(path, [], worker=worker, kill_with=kill_with, as_json=False)
    assert not list(tmp_path.glob("runs/*/*/run.json"))

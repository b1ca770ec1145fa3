"""`tuneyard train` as a user meets it: what it prints, how it ends, and how an interrupted run goes on."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainers.runs import (
    EXPERIMENT,
    Changes,
    make_project,
    make_spec,
    same_bits,
    stored_record,
    stored_rows,
    stored_weights,
    train_run,
)
from tests.waiting import wait_until
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.launch.request import open_experiment_store
from tuneyard.launch.train_command import train_command
from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.keeping import CheckpointConfig
from tuneyard.trainers.config.loading import set_path
from tuneyard.trainers.errors import ConfigError, ModelError, StoreError, TuneyardError

TUNEYARD = str(Path(sys.executable).parent / "tuneyard")
PATIENCE_S = 90.0
NOISY: Changes = {
    "model.args": {"dropout": 0.3, "wait_s": 0.05},
    "data.augment": [{"HorizontalFlip": {"p": 0.5}}],
    "train.epochs": 6,
    "resources.cpus_per_worker": 1,
}
DONE = re.compile(r"epoch \d+/\d+ .* images/s ")


def write_experiment(folder: Path, changes: Changes | None = None) -> Path:
    make_project(folder)
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(EXPERIMENT))
    for key, value in (changes or {}).items():
        set_path(tree, key, value)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [TUNEYARD, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def call(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def stop_after_a_save(folder: Path, number: signal.Signals, *words: str) -> tuple[int, str]:
    """Start the command, send it a signal once it has saved something more; its status and what it said on stderr."""
    before = {path.name for path in folder.glob("runs/quadrants/*/checkpoints/*")}
    process = start(folder, *words)
    wait_until(lambda: bool({path.parent.name for path in folder.glob("runs/*/*/checkpoints/*/manifest-*")} - before))
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


def test_a_run_is_told_in_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    code, out, err = call(tmp_path, "train", "experiment.yaml", "train.epochs=2", "resources.workers=2")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert re.match(r"quadrants: run [0-9]{8}-[0-9]{6}-[0-9a-f]{4} -> file://.*/runs/quadrants/", lines[0])
    assert [line.split()[1] for line in lines if DONE.match(line)] == ["1/2", "2/2"]
    assert any(line.startswith("best val/accuracy ") for line in lines)
    assert any(line.startswith("test/accuracy ") for line in lines)
    record = next(tmp_path.glob("runs/quadrants/*/run.json")).parent
    assert lines[-1] == f"record and checkpoints: {record.as_uri()}/"


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run that got SIGINT, SIGTERM and SIGKILL in turn, and went on each time as it said itself."""
    folder = tmp_path_factory.mktemp("a folder with blanks")
    write_experiment(folder, NOISY)
    first = ("train", "experiment.yaml", "optimizer={name: adamw, lr: 0.01}")
    seen: dict[str, Any] = {"folder": folder, "SIGINT": stop_after_a_save(folder, signal.SIGINT, *first)}
    hint = shlex.split(seen["SIGINT"][1].strip().splitlines()[-1].partition("Go on with: ")[2])
    seen["hint"] = hint
    seen["SIGTERM"] = stop_after_a_save(folder, signal.SIGTERM, *hint[1:])
    stop_after_a_save(folder, signal.SIGKILL, *first, "--resume")
    seen["last"] = call(folder, *first, "--resume")
    return seen


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_go_on(battered: dict[str, Any], name: str) -> None:
    status, err = battered[name]
    assert status == 130
    assert "Traceback" not in err
    assert "Stopping: saving a checkpoint first" in err
    assert re.search(r"stopped in epoch \d, after step \d+; it is saved\. Go on with: tuneyard train ", err)


def test_the_hint_is_a_command_that_a_shell_understands(battered: dict[str, Any]) -> None:
    run_id = next(battered["folder"].glob("runs/quadrants/*")).name
    overrides = ["experiment.yaml", "optimizer={name: adamw, lr: 0.01}"]
    assert battered["hint"] == ["tuneyard", "train", *overrides, "--run", run_id, "--resume"]


def test_a_run_that_was_stopped_and_killed_ends_like_one_that_was_not(battered: dict[str, Any], tmp_path: Path) -> None:
    assert battered["last"][0] == 0
    whole = make_spec(tmp_path, {**NOISY, "optimizer": {"name": "adamw", "lr": 0.01}})
    train_run(whole)
    folder: Path = battered["folder"]
    runs = list(folder.glob("runs/quadrants/*"))
    assert len(runs) == 1
    spec = whole.model_copy(update={"run_id": runs[0].name, "store_uri": (folder / "runs").as_uri()})
    assert same_bits(stored_weights(spec), stored_weights(whole))
    assert stored_rows(spec) == stored_rows(whole)
    record = stored_record(spec)
    assert (record.status, record.attempts) == ("completed", 4)


def test_a_complete_run_is_not_resumed(battered: dict[str, Any]) -> None:
    folder: Path = battered["folder"]
    code, _, err = call(folder, "train", "experiment.yaml", "--resume")
    assert code == 2
    run_id = next(folder.glob("runs/quadrants/*")).name
    assert err == (f"Error: Run {run_id} is complete: there is nothing to resume. Leave --resume out to train anew.\n")


def test_a_second_sigint_leaves_at_once(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"model.args": {"wait_s": 300.0}, "resources.cpus_per_worker": 1})
    # The check before training waits too; so the signals come while a step is under way.
    path = tmp_path / "task.py"
    path.write_text(
        path.read_text().replace("time.sleep(self.wait_s)", "time.sleep(self.wait_s * images.any().item())")
    )
    process = start(tmp_path, "train", "experiment.yaml")
    wait_until(lambda: any(tmp_path.glob("runs/quadrants/*/run.json")))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("Stopping: saving a checkpoint first. Ctrl-C again")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Leaving at once; nothing was saved since the last checkpoint." in err
    assert list(tmp_path.glob("runs/**/manifest-*.json")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment.yaml", "optimizer.lrr=1"], "optimizer.lrr: unknown key. Did you mean 'lr'?"),
        (["missing.yaml"], "There is no experiment file missing.yaml."),
        (["experiment.yaml", "--resume"], "There is no run of quadrants in file://"),
    ],
)
def test_a_mistake_ends_with_two_and_without_a_traceback(words: list[str], message: str, tmp_path: Path) -> None:
    write_experiment(tmp_path)
    code, out, err = call(tmp_path, "train", *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("data.source=npz:none.npz", TuneyardError, "none.npz does not exist"),
        ("data.augment=[HorizontalFlp]", ConfigError, "Did you mean 'HorizontalFlip'"),
        ("data.augment=[{HorizontalFlip: {q: 1}}]", ConfigError, "HorizontalFlip.q: 'q' is not known"),
        ("task=task.py:Mine", ConfigError, "has no such object. Name: 'Mine' is not known"),
        ("model.name=other.py:plain", ConfigError, "other.py does not exist. File: 'other.py' is not known"),
        ("model.name=broken.py:plain", ConfigError, "broken.py fails when imported: ZeroDivisionError"),
        ("data.image_size=4", ModelError, "do not go through task.py:plain"),
        ("train.deepspeed.offload=optimizer", ConfigError, "train.strategy is ddp, which goes without DeepSpeed"),
        ("resources.gpus_per_worker=1", ConfigError, "this machine shows no GPU"),
        ("train.batch_size=0", ConfigError, "train.batch_size: given 0; allowed: at least 1"),
        ("schedule.warmup_epochs=3", ConfigError, "must be below train.epochs"),
        ("tune={metric: val/f1, space: {optimizer.lr: {uniform: [0.1, 1]}}}", ConfigError, "'val/f1' is not known"),
        ("data.normalize={mean: [0, 0, 0], std: [1, 1, 1]}", TuneyardError, "3 channels"),
    ],
)
def test_a_mistake_is_told_before_a_run_begins(
    override: str, kind: type[TuneyardError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(kind) as caught:
        train_command(path, [override], resume=False, run_id=None)
    assert message in str(caught.value)
    assert list(tmp_path.glob("runs/**/run.json")) == []


def test_more_workers_than_the_batch_can_be_shared_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.batch_size: 12 is the global batch.* 4 worker\(s\) times"):
        train_command(
            write_experiment(tmp_path), ["resources.workers=4", "train.accumulate=4"], resume=False, run_id=None
        )


def test_a_run_that_is_not_there_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_experiment(tmp_path)
    spec = make_spec(tmp_path, {"train.epochs": 1}, run_id="20260101-000000-aaaa")
    train_run(spec)
    with pytest.raises(ConfigError, match=r"Run of quadrants: '20260101-000000-aaab' is not known. Did you mean"):
        train_command(path, [], resume=True, run_id="20260101-000000-aaab")


def test_a_store_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    experiment = Experiment(
        name="x", data=DataConfig(source="digits"), checkpoint=CheckpointConfig(store=f"{tmp_path}/file/runs")
    )
    with pytest.raises(StoreError, match="a part of the path is a file and not a folder: choose another folder"):
        open_experiment_store(experiment)


@pytest.mark.s3
def test_a_bucket_that_is_not_there(s3_server: SeaweedServer) -> None:
    checkpoint = CheckpointConfig(store="s3://nowhere/runs", endpoint_url=s3_server.endpoint_url)
    experiment = Experiment(name="x", data=DataConfig(source="digits"), checkpoint=checkpoint)
    with pytest.raises(StoreError, match=r"there is no bucket 'nowhere'. Make it with .* or correct checkpoint\.store"):
        open_experiment_store(experiment)

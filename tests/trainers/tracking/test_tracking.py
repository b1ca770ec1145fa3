"""Tracking, with real Comet archives: what is in them, and that they are there whatever happens to the run."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.waiting import wait_until
from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.keeping import CometConfig, TrackingConfig
from tuneyard.trainers.spec import Provenance, TrialSpec
from tuneyard.trainers.tracking import tracker as tracking
from tuneyard.trainers.tracking.tracker import TrackedRun, Tracker, comet_key

PATIENCE_S = 60.0
CONFUSION = np.array([[5, 1], [2, 7]], np.int64)


def make_spec(folder: Path, tracking_config: TrackingConfig, run_id: str = "r1") -> TrialSpec:
    return TrialSpec(
        run_id=run_id,
        experiment=Experiment(name="shirts", data=DataConfig(source="digits"), tracking=tracking_config),
        sweep_id="s1",
        project_dir=str(folder),
        store_uri=f"file://{folder}/runs",
        tracking_dir=str(folder / "tracking"),
        provenance=Provenance(commit="c0ffee", dirty=True, diff="+lr = 2\n"),
    )


def comet(mode: Any) -> TrackingConfig:
    return TrackingConfig(comet=CometConfig(mode=mode))


def untracked() -> TrackingConfig:
    """A process with nothing to import: its only tracker is one that is not installed."""
    return TrackingConfig(comet=CometConfig(mode="off"), also=["mlflow"])


@dataclass(frozen=True)
class Archive:
    """An unzipped Comet archive."""

    meta: dict[str, Any]
    messages: list[dict[str, Any]]
    files: dict[str, bytes]

    @staticmethod
    def read(path: str | Path) -> "Archive":
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        messages = [json.loads(line) for line in files["messages.json"].splitlines()]
        return Archive(json.loads(files["experiment.json"]), messages, files)

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        return [message["payload"] for message in self.messages if message["type"] == kind]

    def metrics(self, name: str) -> list[tuple[float, int, int]]:
        found = [payload["metric"] for payload in self.payloads("metric_msg")]
        return [(one["metricValue"], one["step"], one["epoch"]) for one in found if one["metricName"] == name]

    def asset(self, name: str) -> bytes:
        (found,) = [
            self.files[Path(upload["file_path"]).name]
            for upload in self.payloads("file_upload")
            if name in (upload["additional_params"].get(key) for key in ("fileName", "figName"))
        ]
        return found


def finished_archives(folder: Path) -> list[Path]:
    """Archives that are complete: Comet makes an empty one at the start, and fills it at the end."""
    found = (folder / "tracking" / "comet").glob("*.zip")
    return [
        path for path in found if zipfile.is_zipfile(path) and "experiment.json" in zipfile.ZipFile(path).namelist()
    ]


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of whoever runs the tests may be found."""
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@dataclass(frozen=True)
class TwoAttempts:
    """A run that was tracked, then resumed, by one process."""

    first: TrackedRun
    second: TrackedRun
    problems: list[str]
    first_archive: Archive
    second_archive: Archive


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> TwoAttempts:
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COMET_API_KEY", raising=False)
        patch.setenv("HOME", str(folder))
        spec, tracker = make_spec(folder, comet("auto")), Tracker()
        tracker.begin(spec, None)
        tracker.log_metrics({"train/loss": 0.5, "val/accuracy": 0.25}, step=10, epoch=1)
        pixels = np.full((3, 8, 8, 1), 255, np.uint8)
        tracker.log_images("mistakes", pixels, ["shirt → coat", "b", "c"], step=10, epoch=1)
        tracker.log_confusion(CONFUSION, ["shirt", "coat"], step=10, epoch=1)
        tracker.finish("interrupted")
        first = wait_until(lambda: (run := tracker.run()) and run.comet_mode == "offline" and run)
        tracker.begin(spec, first)
        tracker.log_metrics({"train/loss": 0.4}, step=20, epoch=2)
        tracker.finish("completed")
        problems = tracker.close(PATIENCE_S)
    second = tracker.run()
    assert second is not None
    new = set(second.archives) - set(first.archives)
    return TwoAttempts(first, second, problems, Archive.read(first.archives[0]), Archive.read(new.pop()))


def test_without_a_key_comet_writes_archives_and_nobody_complains(attempts: TwoAttempts) -> None:
    assert attempts.second.comet_mode == "offline"
    assert attempts.problems == []


def test_parameters_are_the_flattened_experiment(attempts: TwoAttempts) -> None:
    found = {
        one["param"]["paramName"]: one["param"]["paramValue"]
        for one in attempts.first_archive.payloads("parameter_msg")
    }
    assert found["optimizer.lr"] == 1e-3
    assert found["optimizer.betas"] == "[0.9, 0.999]"
    assert found["train.clip_norm"] == "none"


def test_metrics_keep_their_names_steps_and_epochs(attempts: TwoAttempts) -> None:
    assert attempts.first_archive.metrics("train/loss") == [(0.5, 10, 1)]
    assert attempts.first_archive.metrics("val/accuracy") == [(0.25, 10, 1)]


def test_the_run_says_who_it_is_and_how_it_ended(attempts: TwoAttempts) -> None:
    others = {one["key"]: one["value"] for one in attempts.first_archive.payloads("log_other")}
    assert others["run_id"] == others["Name"] == "r1"
    assert (others["sweep_id"], others["git_commit"], others["status"]) == ("s1", "c0ffee", "interrupted")
    assert sorted(attempts.first_archive.meta["tags"]) == ["s1", "shirts"]
    assert attempts.first_archive.meta["project_name"] == "shirts"
    assert attempts.first_archive.payloads("system_details")[0]["command"] == sys.argv


def test_the_resolved_experiment_and_the_diff_are_assets(attempts: TwoAttempts) -> None:
    experiment = yaml.safe_load(attempts.first_archive.asset("experiment.yaml"))
    assert Experiment.model_validate(experiment).name == "shirts"
    assert attempts.first_archive.asset("git.diff") == b"+lr = 2\n"


def test_images_are_one_page(attempts: TwoAttempts) -> None:
    page = Image.open(io.BytesIO(attempts.first_archive.asset("mistakes")))
    assert page.size == (224, 252)


def test_the_confusion_matrix_is_there_with_its_classes(attempts: TwoAttempts) -> None:
    found = json.loads(attempts.first_archive.asset("confusion-matrix-0001.json"))
    assert found["labels"] == ["shirt", "coat"]
    assert found["matrix"] == CONFUSION.tolist()


def test_a_resumed_run_stays_one_experiment(attempts: TwoAttempts) -> None:
    archives = [attempts.first_archive, attempts.second_archive]
    assert {archive.meta["offline_id"] for archive in archives} == {attempts.first.comet_key}
    # `create` would refuse the second upload, `get` the first.
    assert [archive.meta["resume_strategy"] for archive in archives] == ["get_or_create"] * 2
    assert attempts.second_archive.metrics("train/loss") == [(0.4, 20, 2)]
    assert len(attempts.second.archives) == 2


def test_the_key_follows_from_where_the_run_is_kept(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, comet("auto"))
    assert comet_key(spec) == comet_key(spec.model_copy(update={"store_uri": spec.store_uri + "/", "resume": True}))
    assert comet_key(spec) != comet_key(make_spec(tmp_path, comet("auto"), "r2"))
    assert 32 <= len(comet_key(spec)) <= 50
    assert comet_key(spec).isalnum()


SCRIPT = """
import os, sys, time
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tracking.tracker import Tracker
tracker = Tracker()
tracker.begin(TrialSpec.model_validate_json(sys.argv[1]), None)
tracker.log_metrics({"train/loss": 0.5}, step=10, epoch=1)
END
"""


@pytest.mark.parametrize(
    "end",
    ["time.sleep(0.3); os.kill(os.getpid(), 9)", "raise RuntimeError"],
    ids=["killed", "raises"],
)
def test_a_run_that_just_ends_leaves_its_archive(tmp_path: Path, end: str) -> None:
    spec = make_spec(tmp_path, comet("offline"))
    subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("END", end), spec.model_dump_json()],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    (path,) = wait_until(lambda: finished_archives(tmp_path))
    archive = Archive.read(path)
    assert archive.metrics("train/loss") == [(0.5, 10, 1)]
    assert {"key": "status", "value": "unfinished"}.items() <= archive.payloads("log_other")[-1].items()


def test_an_unreachable_comet_is_said_once_and_replaced_by_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMET_API_KEY", "nobody" * 6)
    monkeypatch.setenv("COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL", "0")
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")
    tracker = Tracker()
    for run_id in ("r1", "r2"):
        tracker.begin(make_spec(tmp_path, comet("auto"), run_id), None)
        tracker.log_metrics({"train/loss": 0.5}, step=10, epoch=1)
        tracker.finish("completed")
    (problem,) = tracker.close(PATIENCE_S)
    assert "Comet cannot be used online" in problem
    assert "nobody" not in problem
    assert len(finished_archives(tmp_path)) == 2


def test_a_dead_tracking_process_is_said_once_and_the_next_run_gets_a_new_one(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.begin(make_spec(tmp_path, untracked()), None)
    first = wait_until(tracker.process_id)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: any("process died" in problem for problem in tracker.problems()))
    tracker.log_metrics({"train/loss": 0.5}, step=10, epoch=1)
    tracker.finish("completed")
    assert tracker.problems() == []
    tracker.begin(make_spec(tmp_path, untracked(), "r2"), None)
    assert wait_until(tracker.process_id) != first
    assert not any("process died" in problem for problem in tracker.close(PATIENCE_S))


def test_a_stuck_tracking_process_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_BACKLOG_BYTES", 1000)
    tracker = Tracker()
    tracker.begin(make_spec(tmp_path, untracked()), None)
    process = wait_until(tracker.process_id)
    os.kill(process, signal.SIGSTOP)
    for step in range(5000):  # more than a pipe holds
        tracker.log_metrics({"train/loss": 0.5}, step=step, epoch=1)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    for _ in range(3):
        tracker.log_images("inputs", pixels, ["a"], step=1, epoch=1)
    tracker.finish("completed")
    problems = tracker.close(0.1)
    os.kill(process, signal.SIGCONT)
    assert any("2 pages of images were dropped" in problem for problem in problems)
    assert any(f"process {process} goes on" in problem for problem in problems)


def test_ctrl_c_does_not_reach_the_tracking_process(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.begin(make_spec(tmp_path, untracked()), None)
    process = wait_until(tracker.process_id)
    assert os.getpgid(process) != os.getpgid(0)
    os.kill(process, signal.SIGINT)
    assert not any("process died" in problem for problem in tracker.close(PATIENCE_S))


def test_tensorboard_gets_the_metrics_and_the_pages(tmp_path: Path) -> None:
    tracker = Tracker()
    config = TrackingConfig(comet=CometConfig(mode="off"), also=["tensorboard"])
    tracker.begin(make_spec(tmp_path, config), None)
    tracker.log_metrics({"train/loss": 0.5}, step=10, epoch=1)
    tracker.log_images("mistakes", np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"], step=10, epoch=1)
    tracker.log_confusion(CONFUSION, ["shirt", "coat"], step=10, epoch=1)
    tracker.finish("completed")
    assert tracker.close(PATIENCE_S) == []
    run = tracker.run()
    assert run is not None
    assert run.also == ["tensorboard"]
    (events,) = (tmp_path / "tracking" / "tensorboard" / "r1").glob("events.*")
    content = events.read_bytes()
    for tag in (b"train/loss", b"mistakes", b"confusion matrix", b"experiment.yaml"):
        assert tag in content


def test_off_means_no_process_and_no_files(tmp_path: Path) -> None:
    tracker = Tracker()
    run = tracker.begin(make_spec(tmp_path, comet("off")), None)
    tracker.log_metrics({"train/loss": 0.5}, step=10, epoch=1)
    tracker.finish("completed")
    assert run == TrackedRun(comet_mode="off")
    assert tracker.process_id() is None
    assert tracker.close(PATIENCE_S) == []
    assert list(tmp_path.iterdir()) == []


def test_training_imports_no_tracker() -> None:
    code = (
        "import sys; import tuneyard.trainers.tracking.tracker; "
        "print([name for name in ('comet_ml', 'torch', 'accelerate', 'PIL', 'yaml') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"[]"

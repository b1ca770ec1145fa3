"""`tuneyard tune` as a user meets it: mistakes told before anything starts, and sweeps that are killed and go on."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tune.sweeps import built_in, experiment_tree, make_project
from tuneyard.launch.tune_command import tune_command
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import RunRecord, SweepRecord, read_metrics, read_run, read_sweep
from tuneyard.trainers.stores.store import open_store

TUNEYARD = str(Path(sys.executable).parent / "tuneyard")
PATIENCE_S = 170.0


def write_experiment(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A project in `folder`; the path of its experiment file."""
    make_project(folder)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment_tree({"checkpoint.store": str(folder / "runs")} | dict(changes))))
    return path


def tune(path: Path, *overrides: str, resume: bool = False, sweep_id: str | None = None) -> None:
    """The command, in this process."""
    tune_command(
        path, overrides, resume=resume, grow=None, warm_start=[], sweep_id=sweep_id, address=None, report=None
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tune": None}, "tune: missing; a sweep needs at least tune.space"),
        ({"resources.workers": 4096}, "4096 worker(s) with cpus_per_worker 1 are asked for, and this machine has"),
        ({"resources.cpus_per_worker": 4096}, "1 worker(s) with cpus_per_worker 4096 are asked for, and this"),
        ({"tune.metric": "val/acuracy"}, "Did you mean 'val/accuracy'?"),
        ({"tune.space": {"optimizer.lrr": {"choice": [0.1]}}}, "Did you mean 'lr'?"),
        ({"tune.search": "grid"}, "loguniform has no end of values, and tune.search is grid"),
        ({"tune.space": {"model.args.kind": {"choice": ["good", "unbuildable"]}}}, "no such network"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write_experiment(tmp_path, changes)
    with pytest.raises(ConfigError) as raised:
        tune(path)
    assert told in str(raised.value)
    assert not list((tmp_path / "runs").rglob("*.json"))


def test_there_is_nothing_to_resume_before_the_first_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no sweep of quadrants in .* nothing to resume"):
        tune(write_experiment(tmp_path, {}), resume=True)


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"There is no Ray cluster at {address}"):
        tune_command(
            write_experiment(tmp_path, {}), [], resume=False, grow=None, warm_start=[], sweep_id=None, address=address,
            report=None,
        )  # fmt: skip
    assert not list((tmp_path / "runs").rglob("*.json"))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that also marks the processes that are started in it: their TMPDIR lies there."""
    folder = Path(tempfile.mkdtemp(prefix="ty-"))  # short, since Ray puts its sockets there
    (folder / "tmp").mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Command:
    """A `tuneyard tune` in a process group of its own, as a terminal would start it."""

    folder: Path
    words: list[str]
    output: Path = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.output = self.folder / f"output-{len(list(self.folder.glob('output-*')))}.txt"
        hidden = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [TUNEYARD, "tune", *self.words], cwd=self.folder, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env=hidden | {"TMPDIR": str(self.folder / "tmp")},
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def end(self, *, but: str = "nothing") -> int:
        """The exit status, once every process that it started is gone too, `but` those of this name."""
        status = self.process.wait(PATIENCE_S)
        deadline = time.monotonic() + 60.0
        while (left := [name for name in processes_of(self.folder) if but not in name]) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []
        return status


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started by a command in `folder`."""
    mark = f"TMPDIR={folder / 'tmp'}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended since the folder was listed, or is somebody else's
            continue
    return found


def trials_of(folder: Path) -> dict[str, tuple[RunRecord, list[int]]]:
    """The newest sweep's trials: record, and the epochs in metrics.jsonl."""
    store = open_store(str(folder / "runs"))
    keys = [key for key in store.keys("") if key.endswith("/run.json")]
    prefixes = {key.split("/")[-2]: key.removesuffix("run.json") for key in sorted(keys)}
    return {
        run_id: (read_run(store, prefix), [int(row["epoch"]) for row in read_metrics(store, prefix)])
        for run_id, prefix in prefixes.items()
    }


def sweep_of(folder: Path) -> SweepRecord:
    """The only sweep's record."""
    store = open_store(str(folder / "runs"))
    (prefix,) = [key.removesuffix("sweep.json") for key in store.keys("") if key.endswith("/sweep.json")]
    return read_sweep(store, prefix)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_sweep_that_is_killed_and_then_stopped_by_ctrl_c_goes_on_to_its_end(place: Path) -> None:
    """The user's whole story, since each start of Ray costs seconds."""
    path = write_experiment(place, {"model.args": {"wait_s": 0.2}, "tune.trials": 3})

    killed = Command(place, [path.name])
    killed.wait_until(lambda: any(epochs for _, epochs in trials_of(place).values()))
    assert any("ray::" in line for line in processes_of(place)), "what is looked for at the end can be found"
    killed.process.send_signal(signal.SIGKILL)
    # Ray's own agents take a minute to miss the others; no trial may go on without its sweep.
    assert killed.end(but="Agent") == -signal.SIGKILL
    lost = trials_of(place)
    assert {record.status for record, _ in lost.values()} <= {"running", "completed"}
    assert sweep_of(place).status == "running"

    stopped = Command(place, [path.name, "--resume"])
    builds = len(built_in(place))
    stopped.wait_until(lambda: len(built_in(place)) >= builds + 2)
    os.killpg(stopped.process.pid, signal.SIGINT)
    assert stopped.end(but="Agent") == 130, stopped.text
    assert "Traceback" not in stopped.text
    assert "Stopping the sweep: its trials save first." in stopped.text
    assert "interrupted" in stopped.text
    hint = stopped.text.strip().splitlines()[-1]
    assert hint.startswith("The sweep was stopped. Go on with: tuneyard tune ")
    assert sweep_of(place).status == "interrupted"
    assert "running" not in {record.status for record, _ in trials_of(place).values()}

    ended = Command(place, shlex.split(hint.partition("tuneyard tune ")[2]))
    assert ended.end(but="Agent") == 0, ended.text
    trials = trials_of(place)
    assert {run_id: (record.status, epochs) for run_id, (record, epochs) in trials.items()} == {
        run_id: ("completed", [1, 2, 3]) for run_id in ("0001", "0002", "0003")
    }
    sweep = sweep_of(place)
    assert (sweep.status, len(sweep.trials)) == ("completed", 3)
    assert f"winner: {sweep.winner}" in ended.text
    assert "test/accuracy" in ended.text
    assert "Traceback" not in ended.text
    assert "Ray" not in ended.text
    (report,) = [line.removeprefix("report: ") for line in ended.text.splitlines() if line.startswith("report: ")]
    assert "quadrants" in Path(report).read_text()

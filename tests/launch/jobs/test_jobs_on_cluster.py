"""Jobs as a user meets them, on a cluster of two hosts. The tests share it, and run in the order of this file."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.jobs.lab import Lab, lab
from tests.trainers.data.bucket import png
from tests.tune.sweeps import TASK_PY
from tuneyard.cluster.access.connection import connect
from tuneyard.launch.jobs.jobs import list_jobs, read_log
from tuneyard.trainers.record import read_run, read_sweep

pytestmark = [pytest.mark.hosts, pytest.mark.s3, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500)]

EXPERIMENT: dict[str, Any] = {
    "name": "digits",
    "data": {"source": "digits", "image_size": 8, "validation": {"split": 0.2}},
    "model": {"name": "task.py:Net"},
    "train": {"epochs": 1, "batch_size": 256},
    "tracking": {"comet": {"mode": "off"}},
    "tune": {
        "search": "random", "scheduler": "none", "trials": 2, "space": {"optimizer.lr": {"loguniform": [0.001, 0.05]}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(autouse=True)
def _keys(cluster: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the test, which looks into the store. The commands under test do not get them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", cluster.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", cluster.server.secret_key)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "task.py").write_text(TASK_PY)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (folder / ".env").write_text("COMET_API_KEY=x")
    return folder


def job_of(said: str) -> str:
    """The id of the job that `submit` tells."""
    return next(line.split()[1] for line in said.splitlines() if line.startswith("job "))


def wait_for(process: "subprocess.Popen[str]", words: str, within_s: float = 250.0) -> str:
    """What the process says until a line has these words."""
    assert process.stdout is not None
    said, deadline = "", time.monotonic() + within_s
    while words not in said:
        line = process.stdout.readline()
        assert line, f"it ended before it said {words!r}: {said}"
        assert time.monotonic() < deadline, said
        said += line
    return said


def test_a_sweep_is_sent_and_followed_and_its_results_are_in_the_store(cluster: Lab, project: Path) -> None:
    status, said = cluster.run("submit", "experiment.yaml", "optimizer.weight_decay=0.01", cwd=project)
    assert status == 0, said
    for words in (
        "2 nodes, 1 CPU, 0 GPUs; tuneyard", "checkpoint.store=s3://lab/runs  (the cluster's store; runs is a folder",
        "left out: .env (looks like credentials)", "tuneyard logs digits-", "winner: ", "best checkpoint: s3://lab/runs/",
        ": succeeded",
    ):  # fmt: skip
        assert words in said
    store = cluster.store("runs")
    (sweep,) = [key for key in store.keys("digits/") if key.endswith("/sweep.json")]
    prefix = sweep.removesuffix("sweep.json")
    assert read_sweep(store, prefix).status == "completed"
    assert store.get(f"{prefix}report.html").startswith(b"<!")
    assert f"report: s3://lab/runs/{prefix}report.html" in said


def test_the_package_has_the_state_of_the_users_repository(cluster: Lab, project: Path) -> None:
    git = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "task.py"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    status, said = cluster.run(
        "submit", "experiment.yaml", "tune.trials=1", "checkpoint.store=s3://lab/committed",
        f"checkpoint.endpoint_url={cluster.server.endpoint_url}", cwd=project,
    )  # fmt: skip
    assert status == 0, said
    store = cluster.store("committed")
    (run,) = [key for key in store.keys("digits/") if key.endswith("/run.json")]
    assert read_run(store, run.removesuffix("run.json")).git_commit == commit


def test_no_secret_is_in_what_the_dashboard_or_rays_logs_show(cluster: Lab) -> None:
    with connect(cluster.inventory) as connection:
        shown = [connection.get(path) for path in ("/api/jobs/", "/api/v0/actors?detail=1", "/api/v0/jobs?detail=1")]
    text = json.dumps(shown)
    assert "digits-" in text, "the jobs are there"
    for secret in (cluster.server.secret_key, cluster.token):
        assert secret not in text
        for host in (cluster.head, cluster.hosts["w1"]):
            place = host.folder / "opt/tuneyard"
            assert any(place.rglob("raylet.out")), "Ray's logs are there"
            found = subprocess.run(
                ["grep", "-rlF", "--exclude=token", "--exclude=keys", secret, str(place)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (found.returncode, found.stdout) == (1, "")
            assert not [line for line in host.processes().values() if secret in line]


def test_without_the_token_nothing_is_answered(cluster: Lab) -> None:
    with connect(cluster.inventory) as connection:
        for headers, expected in (({}, 401), ({"Authorization": "Bearer wrong"}, 403)):
            body = json.dumps({"entrypoint": "touch /tmp/broken-into"}).encode()
            request = urllib.request.Request(f"{connection.url}/api/jobs/", body, headers, method="POST")
            with pytest.raises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(request, timeout=10)
            raised.value.close()
            assert raised.value.code == expected


def test_the_list_has_the_jobs_and_not_the_checks(cluster: Lab, project: Path) -> None:
    status, said = cluster.run("jobs", cwd=project)
    assert status == 0, said
    assert said.count("succeeded") == 2
    assert "tune experiment.yaml" in said
    assert "tuneyard-check" not in said
    status, said = cluster.run("jobs", "--json", cwd=project)
    assert [job["status"] for job in json.loads(said)] == ["succeeded", "succeeded"]


@pytest.fixture
def long_job(cluster: Lab, project: Path) -> str:
    """A job that runs until it is stopped, and was left with Ctrl-C."""
    process = cluster.start(
        "submit", "experiment.yaml", "train.epochs=100000", "checkpoint.store=s3://lab/long",
        f"checkpoint.endpoint_url={cluster.server.endpoint_url}", "tune.trials=1", "tune.max_failures=0",
        "--name", "long", cwd=project,
    )  # fmt: skip
    said = wait_for(process, " began: ")
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    assert process.returncode == 130, rest
    assert "The job goes on." in rest
    return job_of(said)


def test_stop_lets_the_sweep_save_and_a_broken_link_loses_no_line(cluster: Lab, project: Path, long_job: str) -> None:
    assert long_job.startswith("long-")
    follower = cluster.start("logs", long_job, "--follow", cwd=project)
    begun = wait_for(follower, " began: ")
    cluster.head.cut()
    time.sleep(2)
    for pid, line in _children(follower.pid).items():
        if line.startswith("ssh "):
            os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    cluster.head.mend()
    status, said = cluster.run("stop", cwd=project)
    assert status == 0, said
    assert "Stopping the sweep: its trials save first." in said
    assert "Go on with it: tuneyard submit experiment.yaml train.epochs=100000" in said
    followed, _ = follower.communicate(timeout=90)
    assert follower.returncode == 130
    assert "The link is back." in followed
    with connect(cluster.inventory) as connection:
        log = read_log(connection, long_job).splitlines()
        assert list_jobs(connection)[0].status == "stopped"
    assert [line for line in (begun + followed).splitlines() if line in log] == log
    store = cluster.store("long")
    (sweep,) = [key for key in store.keys("digits/") if key.endswith("/sweep.json")]
    assert read_sweep(store, sweep.removesuffix("sweep.json")).status == "interrupted"
    (run,) = [key for key in store.keys("digits/") if key.endswith("/run.json")]
    assert read_run(store, run.removesuffix("run.json")).status == "interrupted"
    assert [key for key in store.keys("digits/") if "/checkpoints/" in key]


def test_the_plain_way_works_too(cluster: Lab, project: Path) -> None:
    with connect(cluster.inventory) as connection:
        line = [
            sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", connection.url,
            "--working-dir", ".", "--", "tuneyard", "tune", "experiment.yaml", "tune.trials=1",
            "checkpoint.store=s3://lab/plain", f"checkpoint.endpoint_url={cluster.server.endpoint_url}",
        ]  # fmt: skip
        env = cluster.environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.inventory.token.file)})
        env.pop("RAY_ADDRESS")
        done = subprocess.run(line, cwd=project, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best checkpoint: s3://lab/plain/digits/" in done.stdout


def test_our_code_is_sent_where_the_nodes_have_another(cluster: Lab, project: Path, tmp_path: Path) -> None:
    """A working copy that says something else than the nodes' own."""
    root = Path(__file__).parents[3]
    (tmp_path / "tuneyard").mkdir()
    for room in ("cluster", "launch", "trainers", "tune", "terraform"):
        subprocess.run(["cp", "-rL", str(root / room), str(tmp_path / "tuneyard")], check=True)
    changed = tmp_path / "tuneyard/launch/tune_command.py"
    changed.write_text(changed.read_text().replace('f"winner: ', 'f"the other winner: '))
    status, said = cluster.run(
        "submit", "experiment.yaml", "tune.trials=1", "checkpoint.store=s3://lab/other",
        f"checkpoint.endpoint_url={cluster.server.endpoint_url}", cwd=project, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert status == 0, said
    assert "The nodes have other code than this machine's tuneyard" in said
    assert "the other winner: " in said


def _children(pid: int) -> dict[int, str]:
    """The command lines of the processes that descend from this one."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], check=True, capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found, wanted = dict[int, str](), {pid}
    while True:
        new = {int(row[0]): row[2] for row in rows if int(row[1]) in wanted and int(row[0]) not in found}
        if not new:
            return found
        found |= new
        wanted |= set(new)


def test_data_in_s3_are_brought_to_each_machine_once(cluster: Lab, project: Path) -> None:
    images = cluster.store("animals")
    for number in range(32):
        images.put(f"train/{'cat' if number % 2 else 'dog'}/{number}.png", png(number))
    data = {"source": "s3://lab/animals", "s3": {"endpoint_url": cluster.server.endpoint_url}}
    experiment = {**EXPERIMENT, "name": "animals", "data": {**EXPERIMENT["data"], **data}}
    (project / "animals.yaml").write_text(yaml.safe_dump(experiment))

    def brought() -> dict[str, int]:
        """Of each machine's files when they were written."""
        folders = {name: cluster.hosts[name].folder / "root/.cache/tuneyard/s3" for name in ("head", "w1")}
        return {
            f"{name}/{path.name}": path.stat().st_mtime_ns
            for name, folder in folders.items()
            for path in folder.glob("*/files/train/*/*.png")
        }

    status, said = cluster.run("submit", "animals.yaml", cwd=project)
    assert status == 0, said
    first = brought()
    assert sorted(first) == sorted(f"{name}/{number}.png" for name in ("head", "w1") for number in range(32))
    status, said = cluster.run("submit", "animals.yaml", "tune.trials=1", cwd=project)
    assert status == 0, said
    assert brought() == first

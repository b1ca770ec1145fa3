"""The whole way on real parts: hosts, Terraform, a job from outside, faults on the way, and nothing left at the end.

The tests run in the order of this file; they share one cluster, which the last one takes down.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Hosts, hosts
from tuneyard.cluster.access.connection import connect
from tuneyard.cluster.inventory import Inventory, parse_inventory
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

pytestmark = [
    pytest.mark.hosts, pytest.mark.terraform, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1500),
]  # fmt: skip

ROOT = Path(__file__).parents[2] / "terraform/onprem"
WORKERS = ("w1", "w2", "w3")
KEYS = "root/.tuneyard/keys"
"""On each host: the user's own file with the store's keys."""
TRIALS, EPOCHS = 6, 5


@dataclass
class Fleet:
    """The cluster from its user's place, which is outside of it."""

    hosts: Hosts
    folder: Path
    server: SeaweedServer
    before: dict[str, set[str]]
    killed: str = ""
    """The node that is down."""

    def terraform(self, *words: str) -> str:
        done = subprocess.run(
            ["terraform", words[0], "-no-color", *words[1:]], cwd=self.folder / "root", capture_output=True, text=True,
            check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def inventory(self) -> Inventory:
        return parse_inventory(self.terraform("output", "-json", "inventory"), "the output")

    @property
    def store(self) -> Store:
        return open_store("s3://fleet/runs", S3Options(endpoint_url=self.server.endpoint_url))

    def submit(self, *words: str) -> "Job":
        return Job(self, list(words))

    def alive(self, url: str) -> set[str]:
        """The names of the nodes that Ray counts as alive."""
        try:
            status, text = ask(f"{url}/api/v0/nodes", (self.folder / "root/fleet.token").read_text())
        except OSError:
            return set()
        return {node["node_name"] for node in found(text) if node["state"] == "ALIVE"} if status == 200 else set()

    def training(self, url: str) -> set[str]:
        """The names of the nodes that have a trial's worker."""
        token = (self.folder / "root/fleet.token").read_text()
        names = {node["node_id"]: node["node_name"] for node in found(ask(f"{url}/api/v0/nodes", token)[1])}
        actors = found(ask(f"{url}/api/v0/actors", token)[1])
        return {names[actor["node_id"]] for actor in actors if actor["state"] == "ALIVE"} & set(WORKERS)

    def sweeps(self) -> set[str]:
        """The ids of all sweeps."""
        return {key.split("/")[1] for key in self.store.keys("digits/")}

    def runs(self, sweep: str) -> dict[str, dict[str, Any]]:
        """The records of a sweep's runs, each with the `epochs` that it has finished."""
        found = {}
        for key in self.store.keys(f"digits/{sweep}/"):
            folder, _, name = key.rpartition("/")
            if name == "run.json":
                found[folder] = json.loads(self.store.get(key)) | {"epochs": self._epochs(f"{folder}/metrics.jsonl")}
        return found

    def _epochs(self, key: str) -> list[int]:
        if not self.store.exists(key):
            return []
        return [json.loads(line)["epoch"] for line in self.store.get(key).decode().splitlines()]


class Job:
    """`ray job submit` as its user gives it, through a tunnel; its output is collected on the way."""

    def __init__(self, fleet: Fleet, words: list[str]) -> None:
        self._stack, self._fleet = ExitStack(), fleet
        self.url = self._stack.enter_context(connect(fleet.inventory)).url
        token_file = fleet.folder / "root/fleet.token"
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", self.url,
                "--working-dir", str(fleet.folder / "project"), "--", "tuneyard", "tune", "experiment.yaml", *words,
            ],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def sweep(self, before: set[str]) -> str:
        """The id of the sweep that it makes; `before`: those that were there."""
        wait_for(lambda: bool(self._fleet.sweeps() - before), 120, self.last_words)
        return (self._fleet.sweeps() - before).pop()

    def last_words(self) -> str:
        return self.said[-4000:]

    def wait(self, within_s: float) -> int:
        """Its exit status."""
        status = self._process.wait(within_s)
        self.close()
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stack.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line


def ask(url: str, token: str | None) -> tuple[int, str]:
    """The status and the text of a request from outside."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def found(text: str) -> list[dict[str, Any]]:
    """The rows in an answer of Ray's state API."""
    rows: list[dict[str, Any]] = json.loads(text)["data"]["result"]["result"]
    return rows


def wait_for(true: Callable[[], bool], within_s: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, why()
        time.sleep(1.0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Five hosts, the store, and the project; `terraform apply` has run."""
    folder = tmp_path_factory.mktemp("fleet")
    with hosts(folder, ["head", *WORKERS]) as made, SeaweedServer(folder / "seaweedfs", host=made.gateway) as server:
        server.create_bucket("fleet")
        for host in made.by_name.values():
            (host.folder / KEYS).touch(mode=0o600)
            (host.folder / KEYS).write_text(
                f"AWS_ACCESS_KEY_ID={server.access_key}\nAWS_SECRET_ACCESS_KEY={server.secret_key}\n"
            )
        _write_project(folder / "project", server.endpoint_url)
        shutil.copytree(ROOT, folder / "root", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "tests"))
        _write_variables(folder / "root", made)
        with _keys_of(server):
            before = {name: set(host.processes().values()) for name, host in made.by_name.items()}
            one = Fleet(made, folder, server, before)
            one.terraform("init", "-input=false")
            one.terraform("apply", "-auto-approve", "-input=false")
            yield one


def _write_variables(root: Path, made: Hosts) -> None:
    variables = {
        "name": "fleet", "python": sys.executable,
        # Trials have the workers; the sweep's driver has the head.
        "head": {"host": made["head"].address, "num_cpus": 0},
        "workers": {name: {"host": made[name].address, "num_cpus": 1} for name in WORKERS},
        "ssh": {"key_file": str(made.keys.client), "known_hosts": str(made.keys.known_hosts)},
        "environment_file": f"/{KEYS}", "store": "s3://fleet/runs", "start_within_s": 400,
    }  # fmt: skip
    (root / "terraform.tfvars.json").write_text(json.dumps(variables))


def _write_project(folder: Path, endpoint_url: str) -> None:
    """The digits with a task of the user's own, whose steps take a while: there must be time for faults."""
    folder.mkdir()
    experiment = {
        "name": "digits",
        "data": {"source": "digits", "image_size": 8, "validation": {"split": 0.2}},
        "model": {"name": "task.py:build_model"},
        "train": {"epochs": EPOCHS, "batch_size": 64},
        "checkpoint": {"store": "s3://fleet/runs", "endpoint_url": endpoint_url},
        "tracking": {"comet": {"mode": "off"}},
        "resources": {"workers": 2, "gpus_per_worker": 0, "cpus_per_worker": 1, "hang_timeout_s": 20.0},
        "tune": {
            "metric": "val/accuracy", "mode": "max", "trials": TRIALS, "search": "random", "scheduler": "none",
            "space": {"optimizer.lr": {"loguniform": [1.0e-3, 1.0e-2]}},
        },
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    (folder / "task.py").write_text(
        '''"""A small network, slowed down."""

import time

import torch
from torch import nn


class Slow(nn.Sequential):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(0.1)
        return super().forward(images)


def build_model(channels: int, classes: int) -> nn.Module:
    return Slow(nn.Flatten(), nn.Linear(64 * channels, 64), nn.ReLU(), nn.Linear(64, classes))
'''
    )


@contextmanager
def _keys_of(server: SeaweedServer) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        yield


def test_a_request_without_the_token_is_refused(fleet: Fleet) -> None:
    with connect(fleet.inventory) as connection:
        url = f"{connection.url}/api/jobs/"
        body = (fleet.folder / "root/fleet.token").read_text()
        assert [ask(url, token)[0] for token in (None, "0" * 64, body)] == [401, 403, 200]


def test_a_sweep_survives_a_cut_link_and_a_killed_node(fleet: Fleet) -> None:
    job = fleet.submit()
    sweep = job.sweep(before=set())
    wait_for(lambda: any(run["epochs"] for run in fleet.runs(sweep).values()), 240, job.last_words)
    with connect(fleet.inventory) as connection:
        fleet.hosts["w3"].cut()
        wait_for(lambda: "w3" not in fleet.alive(connection.url), 120, job.last_words)
        fleet.hosts["w3"].mend()
        wait_for(lambda: "w3" in fleet.alive(connection.url), 180, job.last_words)
        wait_for(lambda: bool(fleet.training(connection.url) - {"w3"}), 120, job.last_words)
        fleet.killed = min(fleet.training(connection.url) - {"w3"})
    times = job.said.count("is tried again")
    # The two workers of the next one need the node that was away.
    fleet.hosts[fleet.killed].kill()
    assert job.wait(900) == 0, job.said
    assert job.said.count("is tried again") == times + 1, job.said
    runs = fleet.runs(sweep)
    assert [run["status"] for run in runs.values()] == ["completed"] * TRIALS
    assert [run["epochs"] for run in runs.values()] == [list(range(1, EPOCHS + 1))] * TRIALS
    assert "winner: " in job.said


def test_a_node_joins_again_after_its_reboot(fleet: Fleet) -> None:
    fleet.hosts[fleet.killed].boot()
    with connect(fleet.inventory) as connection:
        everybody = {"head", *WORKERS}
        wait_for(lambda: fleet.alive(connection.url) == everybody, 180, lambda: str(fleet.alive(connection.url)))


def test_a_sweep_goes_on_with_a_new_head(fleet: Fleet) -> None:
    before = fleet.sweeps()
    job = fleet.submit("tune.trials=4")
    sweep = job.sweep(before)
    wait_for(lambda: any(run["status"] == "completed" for run in fleet.runs(sweep).values()), 300, job.last_words)
    fleet.hosts["head"].kill()
    job.close()
    left = fleet.runs(sweep)
    fleet.hosts["head"].boot()
    with connect(fleet.inventory) as connection:
        wait_for(lambda: len(fleet.alive(connection.url)) >= 3, 240, lambda: str(fleet.alive(connection.url)))
    again = fleet.submit("tune.trials=4", "--resume")
    assert again.wait(900) == 0, again.said
    ended = fleet.runs(sweep)
    errors = {key: run["error"] for key, run in ended.items() if run["status"] != "completed"}
    assert (len(ended), errors) == (4, {}), again.said
    # What was done before is not done again.
    done = {key: run for key, run in left.items() if run["status"] == "completed"}
    assert {key: ended[key] for key in done} == done
    assert len(done) < 4


def test_nothing_is_left_of_it(fleet: Fleet) -> None:
    fleet.terraform("destroy", "-auto-approve", "-input=false")
    for name, host in fleet.hosts.by_name.items():
        assert set(host.processes().values()) == fleet.before[name]
        assert list((host.folder / "opt/tuneyard").iterdir()) == []
    assert not (fleet.folder / "root/fleet.token").exists()

"""A spot notice on real hosts: the node's own program finds it, and a sweep's trial saves and goes on elsewhere."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.node import imds
from tests.cluster.node_files import write_config
from tests.tune.sweeps import PREFIX
from tests.waiting import wait_until
from tuneyard.cluster.node.config import NodeConfig

pytestmark = [pytest.mark.hosts, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

FOLDER = "/opt/tuneyard/lab"
ROOT = Path(__file__).parents[3]
WORKERS = ("w1", "w2")


@dataclass
class Machines:
    """A head and two workers of one core, each with a metadata service, as on AWS; and what runs there."""

    hosts: Hosts
    folder: Path

    def state(self, name: str) -> str:
        path = self.hosts[name].folder / FOLDER[1:] / "run/state.json"
        return str(json.loads(path.read_text())["state"]) if path.exists() else ""

    def notice(self, name: str, seconds: float) -> None:
        """Say on this machine that EC2 takes it."""
        when = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.folder / f"metadata-{name}/spot/instance-action"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"action": "terminate", "time": when}))

    def training(self) -> list[str]:
        """The machines with a process that trains, by the title that Ray gives it."""
        titles = {name: self.hosts[name].processes().values() for name in WORKERS}
        return [name for name in WORKERS if any(line.startswith("ray::") and ".train" in line for line in titles[name])]

    def log(self, name: str) -> str:
        return (self.hosts[name].folder / FOLDER[1:] / "logs/service.log").read_text()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with ExitStack() as stack:
        made = stack.enter_context(hosts(tmp_path, ["head", *WORKERS]))
        token = secrets.token_hex(32)
        for name in ("head", *WORKERS):
            host = made[name]
            _prepare(host, made["head"].address, token)
            if name != "head":
                host.run(["ip", "addr", "add", f"{imds.ADDRESS}/32", "dev", "lo"])
                folder = tmp_path / f"metadata-{name}"
                folder.mkdir()
                _start(stack, host, [sys.executable, str(Path(imds.__file__)), str(folder), imds.ADDRESS, "80"])
            _start(stack, host, [sys.executable, "-m", "tuneyard.cluster.node", "serve", "--folder", FOLDER])
        machines = Machines(made, tmp_path)
        wait_until(lambda: {machines.state(name) for name in ("head", *WORKERS)} == {"up"}, 300.0)
        yield machines


def _prepare(host: Host, head: str, token: str) -> None:
    folder = host.folder / FOLDER[1:]
    folder.mkdir(mode=0o700)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)
    is_head = host.name == "head"
    config = NodeConfig(
        cluster="lab", role="head" if is_head else "worker", name=host.name, address=host.address,
        head="" if is_head else head, kind="aws", num_cpus=0 if is_head else 1, num_gpus=0,
    )  # fmt: skip
    write_config(folder, config)


def _start(stack: ExitStack, host: Host, command: list[str]) -> None:
    with (host.folder / "output.log").open("ab") as log:
        process = subprocess.Popen(host.inside(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(host.kill)


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def first(events: list[dict[str, Any]], event: str, run_id: str, after: float = 0.0) -> float:
    return next(
        float(one["time"])
        for one in events
        if one["event"] == event and one["what"][0] == run_id and one["time"] >= after
    )


def times_of_checkpoints(sweeping: "subprocess.Popen[bytes]", runs: Path) -> dict[tuple[str, int], float]:
    """(run, step) -> when its checkpoint came to be, watched until the sweep is over: old ones are deleted."""
    found: dict[tuple[str, int], float] = {}
    deadline = time.monotonic() + 300.0
    while sweeping.poll() is None:
        assert time.monotonic() < deadline
        with suppress(FileNotFoundError):  # a folder that goes while it is read
            for manifest in runs.glob("*/checkpoints/*/manifest-*.json"):
                found.setdefault((manifest.parts[-4], int(manifest.parts[-2])), time.time())
        time.sleep(0.05)
    return found


def drained_at(log: str) -> float:
    """When the node told its head that it leaves, by its own log."""
    line = next(line for line in log.splitlines() if "Draining: EC2 takes" in line)
    return datetime.fromisoformat(line.split()[0]).timestamp()


def test_a_spot_notice_moves_a_trial_with_all_it_has_trained(machines: Machines, tmp_path: Path) -> None:
    head, out = machines.hosts["head"], tmp_path / "events.jsonl"
    environment = {
        "RAY_ADDRESS": f"{head.address}:6379", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{FOLDER}/token",
        "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.cluster.node.sweeping", str(tmp_path / "sweep"), str(out)]
    with (tmp_path / "sweep.log").open("wb") as log:
        sweeping = subprocess.Popen(
            head.inside(command), cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: any(one["event"] == "row" for one in told(out)), 300.0)
        [taken] = machines.training()
        noticed = time.time()
        machines.notice(taken, 120.0)
        saved = times_of_checkpoints(sweeping, tmp_path / "sweep/runs" / PREFIX)
        assert sweeping.wait() == 0, (tmp_path / "sweep.log").read_text()
    finally:
        sweeping.kill()
        sweeping.wait()
    events = told(out)
    [moved] = [one for one in events if one["event"] == "moved"]
    run_id, why = moved["what"]
    found = re.fullmatch(r"its machine is being taken away \(stopped in epoch \d+, after step (\d+)\)", why)
    assert found is not None, why
    assert [one for one in events if one["event"] == "retried"] == []
    assert events[-1]["what"] == [{"0001": "completed"}]
    seconds = {
        "drained": drained_at(machines.log(taken)) - noticed,
        "checkpoint durable": saved[run_id, int(found[1])] - noticed,
        "trial gone": moved["time"] - noticed,
        "placed elsewhere": first(events, "began", run_id, moved["time"]) - noticed,
        "next epoch": first(events, "row", run_id, moved["time"]) - noticed,
    }
    print(", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))  # noqa: T201  (the figures of this test)
    assert 0.0 < seconds["checkpoint durable"] < 60.0
    # Ray there has ended, and is not started again.
    wait_until(lambda: machines.state(taken) == "drained", 60.0)
    assert not any("raylet" in line for line in machines.hosts[taken].processes().values())
    assert "EC2 takes this spot instance at" in machines.log(taken)

"""Ray's one process on a node: its command line, and that it is followed from its start to its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.processes import descendants
from tuneyard.cluster.node.ray_process import RAYLETS, RayProcess, own_address, ray_command

HEAD = NodeConfig(cluster="lab", role="head", name="head", address="10.0.0.1", kind="onprem", dashboard_port=8300)
WORKER = NodeConfig(
    cluster="lab", role="worker", name="w1", head="10.0.0.1", kind="onprem", gcs_port=7000, num_cpus=3, num_gpus=0
)
FOLDER = NodeFolder(Path("/opt/tuneyard/lab"))

RAY = ["sh", "-c", "echo one; echo 'Ray runtime started.'; sh -c 'sleep 60; :' & wait"]
"""It says that it is up, and has a child that would outlive it."""


def test_the_dashboard_listens_on_loopback_alone() -> None:
    line = ray_command(HEAD, FOLDER, "10.0.0.1", 0)
    assert {"--head", "--dashboard-host=127.0.0.1", "--dashboard-port=8300", "--port=6379"} <= set(line)
    assert "--node-ip-address=10.0.0.1" in line


def test_a_worker_joins_its_head() -> None:
    line = ray_command(WORKER, FOLDER, "10.0.0.2", 0)
    assert {"--address=10.0.0.1:7000", "--node-name=w1", "--num-cpus=3", "--num-gpus=0"} <= set(line)
    assert not any(word.startswith(("--dashboard-host", "--dashboard-port")) for word in line)


def test_agents_do_not_choose_their_ports() -> None:
    line = ray_command(WORKER, FOLDER, "10.0.0.2", 0)
    assert {"--dashboard-agent-listen-port=7001", "--metrics-export-port=7004"} <= set(line)


def test_a_raylet_has_another_address_than_the_one_before_it(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path)
    folder.make()
    lines = [ray_command(WORKER, FOLDER, "10.0.0.2", folder.count_start()) for _ in range(RAYLETS)]
    ports = [int(word.rpartition("=")[2]) for line in lines for word in line if "manager-port" in word]
    assert sorted(ports) == list(range(7005, 7005 + 2 * RAYLETS))


def test_an_address_is_found_by_the_route_to_the_head() -> None:
    assert own_address(WORKER.model_copy(update={"head": "127.0.0.9"})) == "127.0.0.1"


def test_up_is_when_ray_says_so_and_nothing_is_left_at_the_end() -> None:
    ray = RayProcess(RAY, os.environ, 7001)
    wait_until(lambda: ray.up)
    assert not ray.alive, "up, and without a raylet"
    below = descendants(ray.pid)
    assert below
    ray.end()
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in below))
    assert ray.last_words == "one\nRay runtime started."


def test_what_fails_is_not_up_and_has_last_words() -> None:
    ray = RayProcess(["sh", "-c", "echo no token >&2; exit 1"], os.environ, 7001)
    wait_until(lambda: not ray.alive)
    ray.end()
    assert not ray.up
    assert ray.last_words == "no token"


def test_it_dies_with_its_parent() -> None:
    code = f"""
import os, sys, time
from tuneyard.cluster.node.ray_process import RayProcess
ray = RayProcess({RAY!r}, os.environ, 7001)
while not ray.up: time.sleep(0.01)
print(ray.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    try:
        wait_until(lambda: not Path(f"/proc/{pid}/exe").exists())
    finally:
        os.killpg(pid, signal.SIGKILL)  # the shell's own child, which no kernel ends

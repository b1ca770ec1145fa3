"""A small cluster for the tests of jobs: Ray on real hosts, with its token, and a store that all of them reach.

The head has no CPU for trials, and the worker keeps Ray's files elsewhere than the head: so whatever a trial needs must
have travelled, and must be found where it is.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.node_files import write_config
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

NAME = "lab"
FOLDER = f"/opt/tuneyard/{NAME}"
UP_S = 200.0
TUNEYARD = [sys.executable, "-m", "tuneyard.launch"]


@dataclass
class Lab:
    """The cluster, and a user's home on the test's own machine from which it is used."""

    hosts: Hosts
    home: Path
    inventory: Inventory
    server: SeaweedServer
    token: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts["head"]

    def environment(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        """The user's own: it has no key of the store, and addresses of Ray that must not count."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        return kept | {"HOME": str(self.home), "COLUMNS": "120", "RAY_ADDRESS": "127.0.0.1:1"} | dict(changes or {})

    def start(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """`tuneyard WORDS` as the user gives it, in a process group of its own."""
        return subprocess.Popen(
            [*TUNEYARD, *words], cwd=cwd, env=self.environment(env), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """The same to its end: the exit status, and what it said."""
        process = self.start(*words, cwd=cwd, env=env)
        said, _ = process.communicate(timeout=280)
        return process.returncode, said

    def store(self, folder: str) -> Store:
        """What lies below s3://lab/FOLDER; needs the server's keys in the environment."""
        return open_store(f"s3://lab/{folder}", S3Options(endpoint_url=self.server.endpoint_url))


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A head and one worker, up."""
    with ExitStack() as stack:
        made = stack.enter_context(hosts(folder, ["head", "w1"]))
        server = stack.enter_context(SeaweedServer(folder / "seaweedfs", host=made.gateway))
        server.create_bucket("lab")
        token = secrets.token_hex(16)
        home = folder / "home"
        found = Lab(made, home, _inventory(made, home, server.endpoint_url), server, token)
        _keep(found.inventory, home, token)
        for name, role in (("head", "head"), ("w1", "worker")):
            stack.callback(_serve(found, made[name], role).wait)
            stack.callback(made[name].kill)
        _wait_until_up(found)
        yield found


def _inventory(made: Hosts, home: Path, endpoint_url: str) -> Inventory:
    def node(name: str) -> Node:
        ssh = Ssh(host=made[name].address, key_file=made.keys.client, known_hosts=made.keys.known_hosts)
        return Node(name=name, address=made[name].address, ssh=ssh)

    return Inventory(
        name=NAME, kind="onprem", version="0", head=node("head"), workers=[node("w1")], python=sys.executable,
        token=Token(file=home / f".tuneyard/clusters/{NAME}/token"), folder=FOLDER, store="s3://lab/runs",
        endpoint_url=endpoint_url,
    )  # fmt: skip


def _keep(inventory: Inventory, home: Path, token: str) -> None:
    """What `tuneyard up` leaves on the user's machine."""
    folder = home / f".tuneyard/clusters/{NAME}"
    (folder / "onprem").mkdir(parents=True)
    (folder / "inventory.json").write_text(inventory.model_dump_json())
    (folder / "token").touch(0o600)
    (folder / "token").write_text(token)


def _serve(found: Lab, host: Host, role: str) -> "subprocess.Popen[bytes]":
    """The node's own program, with the store's keys in a file on the node alone."""
    inside = host.folder / FOLDER[1:]
    inside.mkdir(mode=0o700, parents=True)
    keys = inside / "keys"
    for path in (keys, inside / "token"):
        path.touch(0o600)
    keys.write_text(f"AWS_ACCESS_KEY_ID={found.server.access_key}\nAWS_SECRET_ACCESS_KEY={found.server.secret_key}\n")
    (inside / "token").write_text(found.token)
    config = NodeConfig.model_validate(
        {
            "cluster": NAME,
            "role": role,
            "name": host.name,
            "address": host.address,
            "kind": "onprem",
            "num_gpus": 0,
            "head": "" if role == "head" else found.head.address,
            "num_cpus": 0 if role == "head" else 1,
            "environment_file": Path(FOLDER) / "keys",
            "scratch": None if role == "head" else "/opt/tuneyard/scratch",
        }
    )
    write_config(inside, config)
    line = [sys.executable, "-m", "tuneyard.cluster.node", "serve", "--folder", FOLDER]
    return subprocess.Popen(
        host.inside(line), env=found.environment({"HOME": "/root"}), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _wait_until_up(found: Lab) -> None:
    deadline = time.monotonic() + UP_S
    for name in ("head", "w1"):
        state = found.hosts[name].folder / FOLDER[1:] / "run/state.json"
        while not state.exists() or json.loads(state.read_text())["state"] != "up":
            said = state.read_text() if state.exists() else "it has said nothing"
            assert time.monotonic() < deadline, f"{name} is not up: {said}"
            time.sleep(0.2)

"""Ray on this node: one child process, `ray start --block`, which is the parent of all of Ray's own."""

import collections
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.processes import arguments_of, child_of
from tuneyard.cluster.private_files import write_private

STARTED = "Ray runtime started."
"""What `ray start` prints when the node has joined its cluster."""
AGENT = "dashboard_agent_listen"
AFTER_GCS = (AGENT, "dashboard_agent_grpc", "runtime_env_agent", "metrics_export")
"""What listens on the ports after the GCS's, in this order, so that a firewall can know them."""
RAYLET = ("node_manager", "object_manager")
RAYLETS = 49
"""The raylet takes one of so many pairs of ports after those, another at each start."""
END_S = 45.0
READ_S = 2.0

_FATAL = re.compile(r"Check failed: (.*)")
LAST_LINES = 3

_log = logging.getLogger(__name__)


def ray_command(config: NodeConfig, folder: NodeFolder, address: str, start: int) -> list[str]:
    """The command line of Ray on this node; it holds no secret.

    `start`: the number of this start; the next one's is one more.
    """
    line = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--log-color=false",
        f"--node-ip-address={address}", f"--node-name={config.node_name}", f"--temp-dir={folder.ray_temp(config)}",
    ]  # fmt: skip
    # Where a raylet's address were that of one before it whose link was cut, the GCS would speak to it over the broken
    # connection, and lose a placement group on the way: it was waited for in vain (seen with Ray 2.60).
    raylet = config.gcs_port + 1 + len(AFTER_GCS) + len(RAYLET) * (start % RAYLETS)
    ports = {name: config.gcs_port + 1 + index for index, name in enumerate(AFTER_GCS)}
    ports |= {name: raylet + index for index, name in enumerate(RAYLET)}
    line += [f"--{name.replace('_', '-')}-port={port}" for name, port in ports.items()]
    if config.role == "head":
        line += [
            "--head", f"--port={config.gcs_port}", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={config.dashboard_port}",
        ]  # fmt: skip
    else:
        line.append(f"--address={config.head}:{config.gcs_port}")
    if config.num_cpus is not None:
        line.append(f"--num-cpus={config.num_cpus}")
    if config.num_gpus is not None:
        line.append(f"--num-gpus={config.num_gpus}")
    return line


def without_ray_client(parameters: object, head: bool) -> None:
    """Ray's RAY_START_HOOK: nobody here uses the Ray client, whose server would listen on one port more."""
    parameters.ray_client_server_port = None  # type: ignore[attr-defined]


HOOK = f"{__name__}.{without_ray_client.__name__}"


def own_address(config: NodeConfig) -> str:
    """The address by which the other nodes reach this one.

    Raises:
        ClusterError: none is given, and there is no route by which to find it.
    """
    if config.address:
        return config.address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((config.head or "192.0.2.1", 9))  # sends nothing: it only asks for the route
        except OSError as error:
            raise ClusterError(f"This machine finds no route to the head ({error}). Give its own `address`.") from error
        return str(probe.getsockname()[0])


def head_answers(config: NodeConfig, timeout_s: float = 3.0) -> str | None:
    """None where something listens at the head's GCS port; otherwise why it cannot be reached."""
    try:
        socket.create_connection((config.head, config.gcs_port), timeout=timeout_s).close()
    except OSError as error:
        return str(error)
    return None


def fatal_error(temp: Path) -> str:
    """What the raylet of the newest session died of; `ray start` itself only says that the node timed out."""
    with contextlib.suppress(OSError):
        found = _FATAL.search((temp / "session_latest/logs/raylet.err").read_text(errors="replace"))
        return f"The raylet: {found[1]}" if found else ""
    return ""


class RayProcess:
    """`ray start --block`, from its start to its end. What it prints goes to the logger `ray`.

    `agent_port`: where the command says that the dashboard's agent listens.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], agent_port: int) -> None:
        self._agent_port = agent_port
        self._lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._up = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuneyard.cluster.node.with_parent", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**environment, "RAY_START_HOOK": HOOK, "PYTHONUNBUFFERED": "1"}, text=True, errors="replace", cwd="/",
        )  # fmt: skip
        assert self._process.stdout is not None, "asked for a pipe"
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its number, and that of its process group."""
        return self._process.pid

    @property
    def up(self) -> bool:
        """Has the node joined its cluster?"""
        return self._up.is_set()

    @property
    def alive(self) -> bool:
        """Does it run? `ray start --block` waits on after an orderly end of its raylet: then it does not, here."""
        if self._process.poll() is not None:
            return False
        return not self.up or child_of(self._process.pid, "raylet") is not None

    def tell_agents_port(self) -> None:
        """Tell a raylet that has just started where its dashboard agent will listen; to be called every second or so.

        Else it waits for the agent to write the same into the same file, for 15 s, and dies: too soon on a busy
        machine, or where Python is read from a cold disk (ray-project/ray#65983).
        """
        raylet = child_of(self._process.pid, "raylet")
        arguments = arguments_of(raylet) if raylet is not None and not self.up else {}
        if "session_dir" in arguments and "node_id" in arguments:
            path = Path(arguments["session_dir"]) / f"{AGENT}_port_{arguments['node_id']}"
            if not path.exists():
                write_private(path, str(self._agent_port))

    @property
    def last_words(self) -> str:
        """The last lines that it printed, without a traceback's way."""
        return "\n".join(self._lines)

    def end(self) -> None:
        """SIGTERM, on which Ray gives work 30 s to leave and ends its processes; SIGKILL to those that stay.

        Where the raylet has ended there is nothing to wait for.
        """
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(READ_S)

    def _read(self, stream: IO[str]) -> None:
        log = logging.getLogger("ray")
        with stream:
            for line in stream:
                text = line.rstrip()
                if text:
                    log.info("%s", text)
                if text and not text.startswith((" ", "Traceback")):
                    self._lines.append(text)
                if STARTED in text:
                    self._up.set()

"""The node's program as a service that comes back after a reboot: of systemd, or of cron where there is none."""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.processes import POLL_S, descendants, end, marked
from tuneyard.cluster.node.serve import is_served
from tuneyard.cluster.node.supervise import STOP_S, serve_command
from tuneyard.cluster.private_files import write_private

UNITS = Path("/etc/systemd/system")
END_S = 10.0
MOST_STARTS = 3
"""On a busy machine Ray may need one more: an agent that is not up within 15 s ends it."""


class Service(Protocol):
    """Starts the node's program now and after each reboot, and ends it."""

    name: str

    def start(self) -> None:
        """Install it, or renew it, and start it anew."""

    def stop(self) -> None:
        """End it and remove it; no error where there is none."""


def service_of(config: NodeConfig, folder: NodeFolder) -> Service:
    """The service manager that this machine has."""
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return Systemd(config, folder)
    return Cron(config, folder)


class Systemd:
    """A system unit that runs as the user who installs it; needs root, or sudo without a password."""

    name = "systemd"

    def __init__(self, config: NodeConfig, folder: NodeFolder) -> None:
        self._config = config
        self._folder = folder
        self._unit = f"tuneyard-{config.cluster}.service"

    def start(self) -> None:
        write_private(self._folder.path / self._unit, self.unit())
        _privileged(["install", "-m", "0644", str(self._folder.path / self._unit), str(UNITS / self._unit)])
        _privileged(["systemctl", "daemon-reload"])
        _privileged(["systemctl", "enable", "--quiet", self._unit])
        _privileged(["systemctl", "restart", self._unit])

    def stop(self) -> None:
        if (UNITS / self._unit).exists():
            _privileged(["systemctl", "disable", "--now", "--quiet", self._unit])
            _privileged(["rm", "-f", str(UNITS / self._unit)])
            _privileged(["systemctl", "daemon-reload"])

    def unit(self) -> str:
        """The unit's text."""
        command = " ".join(_quoted(word) for word in serve_command(self._folder.path))
        return f"""[Unit]
Description=Tuneyard: {self._config.role} of the cluster {self._config.cluster}
Wants=network-online.target
After=network-online.target remote-fs.target

[Service]
User={pwd.getpwuid(os.geteuid()).pw_name}
ExecStart={command}
Restart=always
RestartSec=5
# SIGTERM to our program alone, which ends Ray in order; then SIGKILL to all that is left.
KillMode=mixed
TimeoutStopSec={STOP_S:.0f}
# A job that ran out of memory is not the node's end.
OOMPolicy=continue
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


class Cron:
    """A supervisor of our own, which the user's crontab starts after a reboot."""

    name = "cron"

    def __init__(self, config: NodeConfig, folder: NodeFolder) -> None:
        self._folder = folder
        self._mark = f"# tuneyard {config.cluster}"
        self._pid_file = folder.path / "run/supervisor.pid"

    def start(self) -> None:
        self._end()
        command = [sys.executable, "-m", "tuneyard.cluster.node", "supervise", "--folder", str(self._folder.path)]
        log = self._folder.logs / "supervisor.log"
        if shutil.which("crontab"):
            line = f"@reboot cd / && {shlex.join(command)} >>{shlex.quote(str(log))} 2>&1 {self._mark}"
            self._write([*self._others(), line.replace("%", r"\%")])
        with log.open("ab") as file:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd="/"
            )

    def stop(self) -> None:
        if shutil.which("crontab"):
            others = self._others()
            if others:
                self._write(others)
            else:
                subprocess.run(["crontab", "-r"], capture_output=True, check=False)
        self._end()

    def _end(self) -> None:
        """End the supervisor and all that descends from it."""
        pid = self._supervisor()
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S + END_S
        while self._supervisor() == pid and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._supervisor() == pid:
            end(lambda: [*descendants(pid), pid] if self._supervisor() == pid else [], 0.0)

    def _supervisor(self) -> int | None:
        """The process that runs; its file may be from before a reboot, and the number another's by now."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(self._pid_file.read_text())
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"supervise" in line and os.fsencode(self._folder.path) in line:
                return pid
        return None

    def _others(self) -> list[str]:
        """The crontab without our line."""
        done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        return [line for line in lines if not line.endswith(self._mark)]

    def _write(self, lines: list[str]) -> None:
        _run(["crontab", "-"], "\n".join(lines) + "\n")


def start_service(config: NodeConfig, folder: NodeFolder, within_s: float) -> str:
    """Start the node's program as a service, and wait until Ray here has joined its cluster.

    Returns what to tell the user.

    Raises:
        ClusterError: Ray did not come up in time, with the reason; the service goes on trying.
    """
    folder.make()
    folder.write_state("down")
    service = service_of(config, folder)
    service.start()
    _wait_until_up(folder, within_s)
    lasting = service.name != "cron" or shutil.which("crontab") is not None
    warning = "" if lasting else "\nwarning: no systemd and no crontab here: it does not come back after a reboot"
    return f"{config.node_name}: Ray is up as {config.role} of {config.cluster} ({service.name}){warning}"


def stop_service(config: NodeConfig, folder: NodeFolder) -> None:
    """End all that runs for this node, and remove its service and Ray's temporary files.

    Raises:
        ClusterError: a process does not end.
    """
    service_of(config, folder).stop()
    left = end(lambda: marked(folder.path), END_S)
    if left or is_served(folder):
        raise ClusterError(f"{folder.path}: its processes {left} do not end, not even by SIGKILL. Reboot the machine.")
    shutil.rmtree(folder.ray_temp(config), ignore_errors=True)
    if (folder.path / "run").is_dir():
        folder.write_state("down")


def _wait_until_up(folder: NodeFolder, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (state := folder.read_state())["state"] != "up":
        late = time.monotonic() > deadline
        if late or (state["state"] == "failing" and state["starts"] not in range(1, MOST_STARTS)):
            said = state["reason"] or f"it is {state['state']}"
            raise ClusterError(
                f"Ray does not come up here (looked for {within_s:.0f} s): {said}\n"
                f"More is in {folder.logs}. The service goes on trying; end it with `stop`."
            )
        time.sleep(POLL_S)


def _privileged(command: Sequence[str]) -> None:
    _run(command if os.geteuid() == 0 else ["sudo", "-n", *command])


def _run(command: Sequence[str], stdin: str = "") -> None:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not on this machine, and is needed to install the service.") from error
    if done.returncode != 0:
        raise ClusterError(f"{shlex.join(command)} failed with {done.returncode}: {done.stderr.strip()}")


def _quoted(word: str) -> str:
    """A word of systemd's command lines: percent signs and dollars mean something there."""
    escaped = word.replace("%", "%%").replace("$", "$$")
    return escaped if escaped.replace("/", "").replace("-", "").replace(".", "").isalnum() else f'"{escaped}"'

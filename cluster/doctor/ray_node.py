"""Ray on this node: does it run, is it closed to those without the token, and what does it listen on?"""

import http.client
import ipaddress
import json
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tuneyard.cluster.amounts import counted, listed
from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.processes import descendants, marked

RUNNING = "Ray"
TOKEN = "Ray's token"  # noqa: S105  (a title)
DASHBOARD = "Ray's dashboard"
PORTS = "open ports"

_ANSWER_S = 10.0
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (looked for, not bound)
# No proxy of the environment: the dashboard listens on our own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_ray(config: NodeConfig, folder: NodeFolder) -> Iterator[Finding]:
    """All about the Ray of this node."""
    processes = _processes(folder)
    yield _running(config, folder, processes)
    yield _token(folder, processes)
    if config.role == "head" and processes:
        yield _dashboard(config, folder)
    if processes:
        yield judge_ports(_listening(processes), _own_addresses(), config.dashboard_port)


def _running(config: NodeConfig, folder: NodeFolder, processes: Sequence[psutil.Process]) -> Finding:
    state = folder.read_state()
    told = f"{state['state']}, as {config.role} {config.node_name}"
    names = {_name(process) for process in processes}
    wanted = {"raylet", "gcs_server"} if config.role == "head" else {"raylet"}
    if wanted <= names:
        return ok(RUNNING, f"{told}, {len(processes)} processes")
    if state["state"] == "drained":
        return not_applicable(RUNNING, f"{told}: the node was told to leave ({state['reason']})")
    return failure(
        RUNNING,
        f"{told}: {listed(sorted(wanted - names))} does not run. {state['reason']}".strip(),
        f"Start it: python -m tuneyard.cluster.node start --folder {folder.path}; {folder.logs}/service.log says more.",
    )


def _token(folder: NodeFolder, processes: Sequence[psutil.Process]) -> Finding:
    """Only its owner can read it, no process shows it, and every process of Ray asks for it."""
    for path in (folder.path, folder.token):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            return failure(TOKEN, f"{path}: {error.strerror}", "Apply the cluster again: tuneyard up.")
        if mode & 0o077:
            return failure(TOKEN, f"{path} has mode {mode:04o}: others may read it", f"chmod go= {path}")
    token = folder.token.read_text().strip()
    showing = [process.pid for process in psutil.process_iter() if token and token in " ".join(_line(process))]
    if showing:
        return failure(
            TOKEN,
            f"it is in the arguments of process {listed(list(map(str, showing)))}, which everyone here can read",
            "End that process, and make a new token: apply the cluster again.",
        )
    modes = {process: _auth_mode(process) for process in processes}
    open_to_all = [
        f"{_name(process)} ({process.pid})" for process, mode in modes.items() if mode not in ("token", None)
    ]
    if open_to_all:
        return failure(
            TOKEN, f"started without RAY_AUTH_MODE=token: {listed(open_to_all)}", "Restart Ray by the node's program."
        )
    asking = list(modes.values()).count("token")
    asked = f"; RAY_AUTH_MODE=token in {asking} processes" if asking else ""
    return ok(TOKEN, f"readable by its owner alone{asked}")


def _dashboard(config: NodeConfig, folder: NodeFolder) -> Finding:
    """Refused without the token, answered with it; the answer has what Ray counts on each node."""
    url = f"http://127.0.0.1:{config.dashboard_port}/api/v0/nodes"
    bare, _ = _status_of(url, {})
    if bare == 200:
        return failure(
            DASHBOARD,
            f"port {config.dashboard_port} answers without a token: whoever reaches it runs what they like",
            "Stop this Ray at once, and start it by the node's program, which sets RAY_AUTH_MODE=token.",
        )
    status, answer = _status_of(url, {"Authorization": f"Bearer {folder.token.read_text().strip()}"})
    if status != 200:
        said = f"{status} with the token" if status else str(answer)
        return failure(
            DASHBOARD,
            f"port {config.dashboard_port}: {said}",
            f"The token in {folder.token} is not the one that Ray was started with, or Ray is not up: start it again.",
        )
    nodes = _resources(answer)
    return ok(
        DASHBOARD, f"{bare} without the token, 200 with it; {counted(len(nodes), 'node')} in Ray", {"nodes": nodes}
    )


def judge_ports(
    listening: Sequence[tuple[str, int, str]], own_addresses: Sequence[str], dashboard_port: int
) -> Finding:
    """The finding about what Ray's processes listen on: (address, port, process), on a machine with these addresses."""
    public = [address for address in own_addresses if ipaddress.ip_address(address).is_global]
    exposed = [one for one in listening if one[0] in public or (one[0] in _EVERY_ADDRESS and public)]
    everywhere = [one for one in listening if one[0] in _EVERY_ADDRESS]
    dashboard = [one for one in listening if one[1] == dashboard_port and not ipaddress.ip_address(one[0]).is_loopback]
    data = {"listening": [list(one) for one in listening], "public_addresses": public}
    if dashboard:
        return failure(
            PORTS,
            f"the dashboard listens on {dashboard[0][0]}:{dashboard_port}",
            "It belongs on 127.0.0.1: start Ray by the node's program, and reach it through a tunnel.",
            data,
        )
    if exposed:
        return failure(
            PORTS,
            f"on the public address {listed(public)}: {_told(exposed)}",
            "Let a firewall in front admit the cluster's own nodes only, or take the public address away.",
            data,
        )
    if everywhere:
        return warning(
            PORTS,
            f"on every address, all private: {_told(everywhere)}",
            "Ray cannot bind these elsewhere. See that a firewall admits the cluster's own nodes only.",
            data,
        )
    return ok(PORTS, f"{counted(len(listening), 'port')}, on private addresses and the loopback", data)


def _told(ports: Sequence[tuple[str, int, str]]) -> str:
    return listed([f"{port} ({name})" for _, port, name in ports], most=6)


def _processes(folder: NodeFolder) -> list[psutil.Process]:
    """What runs under this node's Ray: also those whose titles were written over their marks, by their descent."""
    found = []
    marks = marked(folder.path)
    for pid in sorted({*marks, *(child for parent in marks for child in descendants(parent))}):
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return found


def _listening(processes: Sequence[psutil.Process]) -> list[tuple[str, int, str]]:
    found = set[tuple[str, int, str]]()
    for process in processes:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        found |= {
            (str(one.laddr.ip), int(one.laddr.port), _name(process))
            for one in connections
            if one.status == psutil.CONN_LISTEN
        }
    return sorted(found, key=lambda one: (one[1], one[0]))


def _own_addresses() -> list[str]:
    families = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    found = [entry.address.split("%")[0] for entry in families if entry.family.name in ("AF_INET", "AF_INET6")]
    return sorted(set(found))


def _name(process: psutil.Process) -> str:
    """raylet, gcs_server, or the file of the Python program, such as dashboard/agent.py; else the program's name."""
    line = _line(process)
    scripts = [Path(word) for word in line[1:4] if word.endswith(".py")]
    if scripts:
        return "/".join(scripts[0].parts[-2:])
    return Path(line[0].split()[0]).name if line else "?"


def _line(process: psutil.Process) -> list[str]:
    """The words of its command line, without the empty ones with which a title is filled up."""
    try:
        return [word for word in process.cmdline() if word]
    except psutil.Error:
        return []


def _auth_mode(process: psutil.Process) -> str | None:
    """Its RAY_AUTH_MODE, empty where it has none; None where a title was written over what could be read of it."""
    line = _line(process)
    if not line or shutil.which(line[0]) is None:  # no command line any more: it does not begin with a program
        return None
    try:
        return process.environ().get("RAY_AUTH_MODE", "")
    except psutil.Error:  # it has just ended
        return None


def _status_of(url: str, headers: dict[str, str]) -> tuple[int, Any]:
    """The HTTP status and the JSON of an answer; 0 and the reason where there is none."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (http, to our own loopback)
    try:
        with _OPENER.open(request, timeout=_ANSWER_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, error


def _resources(answer: Any) -> list[dict[str, Any]]:
    """Of each node that is alive in Ray: its name and address, and what Ray counts there."""
    rows = answer.get("data", {}).get("result", {}).get("result", []) if isinstance(answer, dict) else []
    return [
        {
            "name": row.get("node_name"),
            "address": row.get("node_ip"),
            "cpus": float(row.get("resources_total", {}).get("CPU", 0.0)),
            "gpus": float(row.get("resources_total", {}).get("GPU", 0.0)),
        }
        for row in rows
        if row.get("state") == "ALIVE"
    ]

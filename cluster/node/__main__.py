"""The node's own program: `python -m tuneyard.cluster.node COMMAND --folder FOLDER`."""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.check import problems
from tuneyard.cluster.node.config import NodeConfig, read_config
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.serve import is_served, serve
from tuneyard.cluster.node.service import service_of, start_service, stop_service
from tuneyard.cluster.node.supervise import supervise

START_S = 180.0


def main(words: list[str]) -> int:
    """Run a command; returns the exit status: 1 for problems found, 2 for what the user must mend."""
    arguments = _parser().parse_args(words)
    try:
        return _run(arguments)
    except ClusterError as error:
        print(error, file=sys.stderr)  # noqa: T201  (this is a program's output)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    folder = NodeFolder(arguments.folder.absolute())
    config = read_config(folder.path)
    match arguments.command:
        case "check":
            found = problems(config, folder)
            _print("\n".join(f"problem: {problem}" for problem in found) or f"{config.node_name}: no problems")
            return 1 if found else 0
        case "start":
            _print(start_service(config, folder, arguments.within_s))
        case "stop":
            stop_service(config, folder)
        case "serve":
            serve(config, folder)
        case "supervise":
            _supervise(folder)
        case "drain":
            _drain(config, folder, arguments.within_s, arguments.reason)
        case "status":
            _print(json.dumps(status(config, folder)))
    return 0


def status(config: NodeConfig, folder: NodeFolder) -> dict[str, object]:
    """How this node is: its `state` (see `folder.State`) with the reason, and the versions of what runs."""
    state = folder.read_state() if is_served(folder) else {"state": "down", "reason": "", "since": None, "starts": 0}
    return {
        "cluster": config.cluster,
        "node": config.node_name,
        "role": config.role,
        "address": config.address,
        **state,
        "service": service_of(config, folder).name,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("tuneyard", "ray", "torch")},
    }


def _drain(config: NodeConfig, folder: NodeFolder, within_s: float | None, reason: str) -> None:
    from tuneyard.cluster.node.preemption import drain_here

    if not is_served(folder):
        raise ClusterError(f"{config.node_name} does not run: there is nothing to drain.")
    drain_here(config, folder.path, within_s, reason)


def _supervise(folder: NodeFolder) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder.make()
    (folder.path / "run/supervisor.pid").write_text(str(os.getpid()))
    supervise(folder.path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.cluster.node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "check": "Look whether this machine can be the node; prints the problems, exits 1.",
        "start": "Install the service, start it anew, and wait until Ray here has joined.",
        "stop": "End all that runs, and remove the service.",
        "serve": "Run Ray in the foreground; the service's command.",
        "supervise": "Run `serve`, again when it ends; the service where there is no systemd.",
        "drain": "Let the work here leave, and take no new; `start` brings the node back.",
        "status": "Print how the node is, as JSON.",
    }
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in texts.items()}
    for command in made.values():
        command.add_argument("--folder", type=Path, required=True, help="The cluster's folder on this machine.")
    made["start"].add_argument("--within-s", type=float, default=START_S, help="Seconds until Ray must be up.")
    made["drain"].add_argument("--within-s", type=float, help="The machine goes then. Without: it takes what it takes.")
    made["drain"].add_argument("--reason", default="drained by hand", help="Told to the work.")
    return parser


def _print(text: str) -> None:
    print(text)  # noqa: T201  (this is a program's output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

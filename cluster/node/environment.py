"""The environment that Ray on a node starts with; all its workers and jobs inherit it.

Secrets get there from a file that the user keeps on the machine, or from the cloud's parameter store. Ray's token stays
in its file: the environment names the path alone.
"""

import os
import re
import sys
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.private_files import write_private

MARK = "TUNEYARD_NODE"
"""In the environment of all that runs under a node's Ray: the node's folder. By it `stop` finds what is left."""

JOB_STOP_S = 150
"""How long a job that is stopped may save: longer than `resources.leave_within_s` is by default."""

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def ray_environment(config: NodeConfig, folder: NodeFolder) -> dict[str, str]:
    """All variables for Ray on this node, over those of this process.

    Raises:
        ClusterError: a file that it names is missing, open to others, or not valid.
    """
    found = dict(os.environ)
    # Jobs call `tuneyard` and `python` by name; cron and systemd give a bare path.
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    found["RAY_JOB_STOP_WAIT_TIME_S"] = str(JOB_STOP_S)
    if config.role == "head":
        # Ray's SIGTERM has a node drain first. Work that leaves the head has nowhere to go: the cluster ends with it.
        found["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    if config.environment_file is not None:
        found |= read_environment_file(config.environment_file)
    if config.parameters:
        found |= _read_parameters(config)
    return found | connection_environment(config, folder) | {MARK: str(folder.path), "RAY_USAGE_STATS_ENABLED": "0"}


def connection_environment(config: NodeConfig, folder: NodeFolder) -> dict[str, str]:
    """What any client of this cluster's Ray on this node needs: the token's path, and the certificates.

    Raises:
        ClusterError: the token or a certificate is missing, or open to others.
    """
    check_private(folder.token)
    found = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.token)}
    if config.tls:
        check_private(folder.tls / "node.key")
        found |= {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(folder.tls / "node.crt"),
            "RAY_TLS_SERVER_KEY": str(folder.tls / "node.key"),
            "RAY_TLS_CA_CERT": str(folder.tls / "ca.crt"),
        }
    return found


def fetch_token(config: NodeConfig, folder: NodeFolder) -> None:
    """On AWS, write Ray's token from its parameter into the folder; elsewhere whoever provisioned the node did so."""
    if config.token_parameter is not None:
        from tuneyard.cluster.aws import read_parameter

        write_private(folder.token, read_parameter(config.token_parameter, region=config.region))


def read_environment_file(path: Path) -> dict[str, str]:
    """The variables of a file of KEY=VALUE lines, with `#` comments, an optional `export` and quotes around a value.

    Raises:
        ClusterError: it cannot be read, others may read it, or a line is none of these. Values are never shown.
    """
    check_private(path)
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ClusterError(f"{path}, line {number}, is not KEY=VALUE. Allowed too: comments after #, and `export`.")
        name, value = match.groups()
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found


def check_private(path: Path) -> None:
    """See that a file with a secret is there, and its owner's alone.

    Raises:
        ClusterError: it is not; with the command that mends it.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror}. Put it there, with mode 0600.") from error
    if mode & 0o077:
        raise ClusterError(f"{path} holds secrets and has mode {mode & 0o777:04o}. Do: chmod 600 {path}")


def _read_parameters(config: NodeConfig) -> dict[str, str]:
    from tuneyard.cluster.aws import read_parameter

    return {name: read_parameter(parameter, region=config.region) for name, parameter in config.parameters.items()}

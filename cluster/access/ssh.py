"""Commands on machines over OpenSSH's client: its agent, configuration and known hosts are the user's own."""

import shlex
import subprocess
from collections.abc import Sequence

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Ssh

CONNECT_S = 10
SSH_FAILED = 255
"""The exit status by which ssh says that it came to no command."""


def ssh_options(ssh: Ssh) -> list[str]:
    """The options and the destination, for `ssh` and what understands its options. Host keys are always checked."""
    options = [
        "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={CONNECT_S}",
        "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "-p", str(ssh.port),
    ]  # fmt: skip
    if ssh.key_file is not None:
        options += ["-i", str(ssh.key_file.expanduser()), "-o", "IdentitiesOnly=yes"]
    if ssh.known_hosts is not None:
        options += ["-o", f"UserKnownHostsFile={ssh.known_hosts.expanduser()}"]
    if ssh.jump is not None:
        options += ["-o", f"ProxyCommand={_jump(ssh)}"]
    return [*options, f"{ssh.user}@{ssh.host}"]


def run_on(ssh: Ssh, command: Sequence[str], *, stdin: str = "", timeout_s: float = 60.0) -> str:
    """Run a command there and return what it printed.

    Raises:
        ClusterError: the machine cannot be reached, or the command failed; with what either said.
    """
    line = ["ssh", *ssh_options(ssh), shlex.join(command)]
    try:
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise ClusterError("ssh is not installed here. Install OpenSSH's client (Debian: openssh-client).") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{ssh.host}: no answer within {timeout_s:g} s from: {shlex.join(command)}") from error
    if done.returncode == SSH_FAILED:
        raise ClusterError(f"{ssh.user}@{ssh.host} cannot be reached over SSH: {done.stderr.strip()}")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ClusterError(f"{ssh.host}: {shlex.join(command)} failed with {done.returncode}: {said}")
    return done.stdout


def _jump(ssh: Ssh) -> str:
    """ssh -J reads the user's configuration only; the key and the known hosts are for the jump host as well."""
    assert ssh.jump is not None, "asked for a jump host's command without one"
    user, _, place = ssh.jump.rpartition("@")
    host, _, port = place.partition(":")
    through = ssh.model_copy(update={"host": host, "port": int(port or 22), "user": user or ssh.user, "jump": None})
    return shlex.join(["ssh", *ssh_options(through)[:-1], "-W", "%h:%p", ssh_options(through)[-1]]).replace(
        "'%h:%p'", "%h:%p"
    )

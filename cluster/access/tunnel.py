"""A port of this machine that leads to a port on a node's loopback: through SSH, or through AWS's Session Manager.

The program that holds the tunnel open lives exactly as long as we want it: it is ended when the tunnel is closed, and
it ends by itself when this process is gone, however that went. It does not see Ctrl-C in the terminal.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tuneyard.cluster.access.ssh import CONNECT_S, ssh_options
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Node

LOOPBACK = "127.0.0.1"
OPEN_S = 3 * CONNECT_S
"""For the program to listen: a jump host may be on the way."""
ATTEMPTS = 3
PLUGIN = "session-manager-plugin"
_POLL_S = 0.05
_STOP_S = 5.0
_LAST_WORDS = 2000

_END_WITH_PIPE = """
exec 3<&0
{ read -r _ <&3; kill -KILL 0; } &
exec "$@" 3<&- </dev/null
"""
"""The shell becomes the program. Its child waits for the end of a pipe that we hold, which comes with our own end too,
and takes the process group with it."""


class LinkError(ClusterError):
    """The way to the head is broken, or the head is away; it may come back."""


class Tunnel:
    """To `port` on the loopback of `node`, while the `with` block lasts. `local_port` is set inside it."""

    def __init__(self, node: Node, port: int, *, region: str | None = None) -> None:
        self._node, self._port, self._region = node, port, region
        self._process: subprocess.Popen[bytes] | None = None
        self._session: str | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the tunnel)
        self.local_port = 0

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:  # also Ctrl-C: __exit__ is not called for a block that was never entered
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Does the program run? Within some 15 s of a broken link it ends."""
        return self._process is not None and self._process.poll() is None

    def why(self) -> str:
        """The last that the program said."""
        if self._said.closed:
            return ""
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _LAST_WORDS))
        return self._said.read().decode(errors="replace").strip()

    def close(self) -> None:
        """End the program; no error where it has ended."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None, "it was started with a pipe"
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:  # the child that should have seen it is no more
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._end_session()
        self._said.close()

    def _open(self) -> None:
        for attempt in range(ATTEMPTS):
            # Another process may take the port between our look and the program's; then the program ends.
            self.local_port = _free_port()
            self._start()
            if self._wait_until_open():
                return
            taken = "ddress already in use" in self.why()
            if not taken or attempt == ATTEMPTS - 1:
                raise LinkError(f"No tunnel to {self._node.name}: {self.why() or 'the program ended'}")

    def _start(self) -> None:
        if self._node.ssh is not None:
            forward = f"{LOOPBACK}:{self.local_port}:{LOOPBACK}:{self._port}"
            options = ["-N", "-T", "-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none"]
            self._launch(["ssh", *options, "-L", forward, *ssh_options(self._node.ssh)], {}, _NO_SSH)
        elif self._node.instance_id is not None:
            self._start_session(self._node.instance_id)
        else:
            raise ClusterError(
                f"The inventory does not say how to reach {self._node.name}: it has neither ssh nor an instance id. "
                "Apply the cluster again: tuneyard up"
            )

    def _start_session(self, instance_id: str) -> None:
        if shutil.which(PLUGIN) is None:
            raise ClusterError(_NO_PLUGIN)
        from tuneyard.cluster.aws import start_port_session

        self._end_session()
        started = start_port_session(instance_id, self._port, self.local_port, self._region)
        self._session = started.id
        # The answer holds a token of the session's own: in the environment, as AWS's own command line passes it, since
        # arguments are everybody's to see.
        secret = {_RESPONSE: json.dumps(started.response)}
        line = [PLUGIN, _RESPONSE, started.region, "StartSession", "", json.dumps(started.request), started.endpoint]
        self._launch(line, secret, _NO_PLUGIN)

    def _launch(self, line: Sequence[str], environment: Mapping[str, str], missing: str) -> None:
        if shutil.which(line[0]) is None:
            raise ClusterError(missing)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _END_WITH_PIPE, "sh", *line],
            stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip

    def _wait_until_open(self) -> bool:
        deadline = time.monotonic() + OPEN_S
        while self.alive:
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, self.local_port), 1.0).close()
                return True
            if time.monotonic() > deadline:
                raise LinkError(f"No tunnel to {self._node.name} within {OPEN_S:g} s. {self.why()}".rstrip())
            time.sleep(_POLL_S)
        return False

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            from tuneyard.cluster.aws import end_session

            with contextlib.suppress(ClusterError):  # it ends by itself some minutes later
                end_session(session, self._region)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])


_RESPONSE = "AWS_SSM_START_SESSION_RESPONSE"
_NO_SSH = "ssh is not installed here. Install OpenSSH's client (Debian: openssh-client)."
_NO_PLUGIN = (
    f"{PLUGIN} is not installed here; the nodes are reached through AWS's Session Manager. Install version 1.2.497 or "
    "newer: https://docs.aws.amazon.com/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html"
)

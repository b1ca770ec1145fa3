"""The cluster's own folder on a node: what lies where in it, and who may read it."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import TOKEN_FILE, NodeConfig
from tuneyard.cluster.private_files import make_private_folder, write_private

State = Literal["waiting", "starting", "up", "failing", "drained", "down"]
"""waiting: a worker does not reach its head. failing: Ray ended, and is started again. drained: left on purpose."""

LONGEST_SOCKET = 107
"""Bytes in the path of a Unix socket (unix(7): sun_path)."""
SESSION_CHARACTERS = len("/session_2026-11-22_06-45-09_123456_1234567/sockets/plasma_store")


@dataclass(frozen=True)
class NodeFolder:
    """The paths in a cluster's folder on a node."""

    path: Path

    @property
    def token(self) -> Path:
        """Ray's authentication token."""
        return self.path / TOKEN_FILE

    @property
    def logs(self) -> Path:
        """What the node's program and `ray start` say; Ray's own logs lie with its temporary files."""
        return self.path / "logs"

    @property
    def tls(self) -> Path:
        """ca.crt, node.crt and node.key."""
        return self.path / "tls"

    @property
    def lock(self) -> Path:
        """Held by the one `serve` that may run."""
        return self.path / "run/serve.lock"

    @property
    def drained(self) -> Path:
        """There as long as Ray is not to be started again: the node was told to leave."""
        return self.path / "run/drained"

    @property
    def _state(self) -> Path:
        return self.path / "run/state.json"

    @property
    def _starts(self) -> Path:
        return self.path / "run/starts"

    def make(self) -> None:
        """Make the folders that a running node needs."""
        for path in (self.path, self.logs, self.path / "run"):
            make_private_folder(path)

    def ray_temp(self, config: NodeConfig) -> Path:
        """The folder for Ray's temporary files.

        Raises:
            ClusterError: its path is too long for the sockets that Ray makes in it.
        """
        found = self.path / "ray" if config.scratch is None else config.scratch / f"tuneyard-{config.cluster}"
        if len(os.fsencode(found)) + SESSION_CHARACTERS > LONGEST_SOCKET:
            raise ClusterError(
                f"{found} is too long a path for the sockets that Ray makes below it: at most "
                f"{LONGEST_SOCKET - SESSION_CHARACTERS} characters. Set `scratch` or `folder` to a shorter one."
            )
        return found

    def count_start(self) -> int:
        """Number a start of Ray: one more than the last one's, also past a reboot.

        The first has the clock's seconds, since a machine made anew may have the address of the one before it.
        """
        try:
            number = int(self._starts.read_text()) + 1
        except (FileNotFoundError, ValueError):
            number = int(time.time())
        write_private(self._starts, str(number))
        return number

    def mark_drained(self, reason: str) -> None:
        """From now on an end of Ray is wanted: it is not started again until the service is."""
        write_private(self.drained, reason + "\n")

    def write_state(self, state: State, reason: str = "", *, starts: int = 0) -> None:
        """Tell `status` and `start` how Ray here is; `starts`: how often it was started since the service was."""
        write_private(
            self._state, json.dumps({"state": state, "reason": reason, "since": time.time(), "starts": starts})
        )

    def read_state(self) -> dict[str, Any]:
        """What was written last; state `down` where nothing was."""
        try:
            found = json.loads(self._state.read_text())
        except FileNotFoundError:
            found = {"state": "down", "reason": "", "since": None, "starts": 0}
        return dict(found)

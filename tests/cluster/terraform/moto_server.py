"""Moto as AWS, for Terraform: a server in a process of its own, so that the tests' own boto3 stays as it is."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 60.0
HOLD = "hold-new-groups"
"""While a file of this name lies in the server's folder, who asks for a new group waits for the answer."""
REGION = "eu-central-1"
_PR_SET_PDEATHSIG = 1


@contextmanager
def moto_server(folder: Path, address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """The environment by which Terraform and boto3 reach it, while it runs; its log lies in `folder`."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    url = f"http://{address}:{port}"
    with (folder / "moto.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, address, str(port), str(folder / HOLD)],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        _wait(process, url, folder / "moto.log")
        yield {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=2).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def _end_with_parent() -> None:
    if os.name == "posix":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(address: str, port: str, hold: str) -> None:
    from moto.autoscaling.exceptions import AutoscalingClientError
    from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
    from moto.ec2.models.instances import Instance
    from moto.server import main

    end = Instance.terminate

    def end_and_detach(self: Instance) -> Any:
        # As EC2 does: an interface that outlives its machine is free again. Moto keeps it attached for good.
        state, nics = end(self), dict(self.nics)
        for nic in nics.values():
            if not nic.delete_on_termination:
                self.detach_eni(nic)
        self.nics = nics  # moto describes a machine that is ended by its first interface
        return state

    make = AutoScalingBackend.create_auto_scaling_group

    class AlreadyExistsError(AutoscalingClientError):
        code = "AlreadyExists"

    def make_once(self: AutoScalingBackend, *, name: str, **given: Any) -> Any:
        # As AWS does. Moto puts the new group in the place of the other, whose machines are then nobody's.
        if name in self.autoscaling_groups:
            raise AlreadyExistsError(f"AutoScalingGroup by this name already exists - {name}")
        made = make(self, name=name, **given)
        while Path(hold).exists():
            time.sleep(0.1)
        return made

    change = FakeAutoScalingGroup.update

    def change_what_is_told(self: FakeAutoScalingGroup, *args: Any, **given: Any) -> None:
        # As AWS does: what a request leaves out stays. Moto drops the mix.
        mix = self.mixed_instances_policy
        change(self, *args, **given)
        self.mixed_instances_policy = self.mixed_instances_policy or mix

    FakeAutoScalingGroup.update = change_what_is_told  # type: ignore[method-assign]
    Instance.terminate = end_and_detach  # type: ignore[method-assign]
    AutoScalingBackend.create_auto_scaling_group = make_once  # type: ignore[method-assign, assignment]
    main(["-H", address, "-p", port])


if __name__ == "__main__":
    _serve(*sys.argv[1:])

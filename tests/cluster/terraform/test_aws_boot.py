"""The boot scripts of the nodes on AWS: golden files, checked, and run on hosts as far as they go without AWS."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.terraform.boot_scripts import CASES, GOLDEN, WORKER, render
from tests.cluster.terraform.moto_server import REGION, moto_server
from tuneyard.cluster.node.config import NodeConfig

BUCKET = "tuneyard-lab-1"
TOKEN = "0123456789abcdef" * 4
METADATA = Path(__file__).parent / "metadata_server.py"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return render(tmp_path_factory.mktemp("boot"), CASES)


@pytest.mark.terraform
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_boot_script_is_the_golden_one(scripts: dict[str, str], name: str) -> None:
    assert scripts[name] == (GOLDEN / f"{name}.sh").read_text(), "renew: python -m tests.cluster.terraform.boot_scripts"


@pytest.mark.shellcheck
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(
        ["shellcheck", *sorted(str(path) for path in GOLDEN.glob("*.sh"))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_golden_file_is_rendered_here() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sh")} == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_configuration_in_the_script_is_one(name: str) -> None:
    line = next(line for line in (GOLDEN / f"{name}.sh").read_text().splitlines() if line.startswith('{"'))
    config = NodeConfig.model_validate({**json.loads(line), "name": "i-1", "address": "10.64.0.11", "scratch": None})
    assert config.role == ("head" if name == "head" else "worker")
    assert config.token_parameter == "/tuneyard/lab/token"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.hosts
@pytest.mark.terraform
def test_machines_boot_into_a_cluster(tmp_path: Path) -> None:
    with _surroundings(tmp_path, ["head", "w1"]) as made:
        address = made.hosts["head"].address
        rendered = made.render(head={"role": "head"}, worker={**WORKER, "head": address, "idle_minutes": None})
        made.boot("head", rendered["head"])
        made.boot("w1", rendered["worker"])

        told = {name: made.status(name) for name in ("head", "w1")}
        assert {name: (one["state"], one["node"]) for name, one in told.items()} == {
            "head": ("up", "head"), "w1": ("up", "i-w1"),
        }  # fmt: skip
        token = made.hosts["w1"].folder / "opt/tuneyard/lab/token"
        assert (token.read_text(), oct(token.stat().st_mode & 0o777)) == (TOKEN, "0o600")
        for name in ("head", "w1"):
            assert not any(TOKEN in line for line in made.hosts[name].processes().values())
            assert TOKEN not in (made.hosts[name].folder / "opt/tuneyard/lab/logs/boot.log").read_text()
            made.node(name, "stop")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.hosts
@pytest.mark.terraform
def test_a_machine_with_another_package_does_not_start_and_leaves(tmp_path: Path) -> None:
    with _surroundings(tmp_path, ["w1"]) as made:
        made.files["package"]["sha256"] = "0" * 64
        instance = made.autoscaled_instance()
        script = made.render(worker={**WORKER, "head": "10.77.0.1", "idle_minutes": 0.01})["worker"]
        done = made.boot("w1", script, instance=instance, check=False)

        assert done.returncode == 1
        log = made.client("s3").get_object(Bucket=BUCKET, Key=f"tuneyard/logs/lab/{instance}.log")["Body"].read()
        assert b"FAILED" in log
        group = made.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]
        assert (group["DesiredCapacity"], group["Instances"]) == (0, [])
        assert not (made.hosts["w1"].folder / "opt/tuneyard/lab/node.json").exists()


@pytest.mark.hosts
def test_local_disks_become_one_volume(tmp_path: Path) -> None:
    scripts = {"worker": (GOLDEN / "worker-with-python.sh").read_text()}
    commands = {
        "lsblk": 'case "$*" in *MODEL*) printf "/dev/nvme%dn1 Amazon EC2 NVMe Instance Storage\\n" 1 2;; esac',
        "systemctl": "exit 1", "mountpoint": "exit 1", "mdadm": "", "mkfs.ext4": "", "mount": "",
    }  # fmt: skip
    with hosts(tmp_path, ["w1"]) as made:
        called = _record(tmp_path / "bin", commands)
        (tmp_path / "fstab").write_text("")
        host = made["w1"]
        host.run(["mount", "--bind", str(tmp_path / "fstab"), "/etc/fstab"])
        with _metadata(host, "i-w1"), _removed(Path("/scratch/cache"), Path("/scratch")):
            _run_script(
                host, scripts["worker"], {"PATH": f"{tmp_path / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"}, check=False
            )

        assert [
            line for line in called.read_text().splitlines() if line.split()[0] in ("mdadm", "mkfs.ext4", "mount")
        ] == [
            "mdadm --create /dev/md/scratch --run --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1",
            "mkfs.ext4 -q -m 0 -L tuneyard /dev/md/scratch",
            "mount /scratch",
        ]
        assert (tmp_path / "fstab").read_text() == (
            "LABEL=tuneyard /scratch ext4 defaults,noatime,nofail,x-systemd.before=tuneyard-lab.service 0 0\n"
        )


class _Surroundings:
    """What a machine on AWS finds around it: metadata, S3 and SSM (moto), and an index of packages."""

    def __init__(self, folder: Path, made: Hosts, environment: Mapping[str, str], index: str) -> None:
        self.hosts, self._folder, self._environment, self._index = made, folder, environment, index
        self._stack = ExitStack()
        wheel = _small_wheel(folder, "tuneyard", "0.1.0", {})
        self.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.client("s3").upload_file(str(wheel), BUCKET, f"tuneyard/packages/1/{wheel.name}")
        self.client("ssm").put_parameter(Name="/tuneyard/lab/token", Value=TOKEN, Type="SecureString")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        self.files = {"package": {"key": f"tuneyard/packages/1/{wheel.name}", "sha256": digest}}

    def client(self, service: str) -> Any:
        return boto3.client(
            service, region_name=REGION, endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # type: ignore[call-overload]  # fmt: skip

    def render(self, **cases: dict[str, Any]) -> dict[str, str]:
        folder = self._folder / "render"
        folder.mkdir()
        more = {"files": self.files, "index_url": self._index}
        return render(folder, {name: {**more, **case} for name, case in cases.items()})

    def boot(
        self, name: str, script: str, *, instance: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        # The tests' own Python, and no disk of the machine that runs the tests.
        _record(self._folder / "bin", {"lsblk": "", "systemctl": "exit 1"})
        path = f"{self._folder / 'bin'}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        with _metadata(self.hosts[name], instance or f"i-{name}"):
            environment = {**self._environment, "PATH": path, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
            environment["PIP_TRUSTED_HOST"] = self.hosts.gateway  # the tests' index has no TLS
            return _run_script(self.hosts[name], script, environment, check=check)

    def node(self, name: str, command: str) -> str:
        folder = "/opt/tuneyard/lab"
        words = [f"{folder}/env/bin/python", "-m", "tuneyard.cluster.node", command, "--folder", folder]
        return self.hosts[name].run(words, env=self._environment).stdout

    def status(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.node(name, "status")))

    def autoscaled_instance(self) -> str:
        """A machine in a group, as moto knows it."""
        group = self.client("autoscaling")
        group.create_launch_configuration(
            LaunchConfigurationName="one", ImageId="ami-12c6146b", InstanceType="t3.micro"
        )
        group.create_auto_scaling_group(
            AutoScalingGroupName="tuneyard-lab-gpu", LaunchConfigurationName="one", MinSize=0, MaxSize=1,
            DesiredCapacity=1, AvailabilityZones=[f"{REGION}a"],
        )  # fmt: skip
        return str(group.describe_auto_scaling_instances()["AutoScalingInstances"][0]["InstanceId"])


@contextmanager
def _surroundings(folder: Path, names: Sequence[str]) -> Iterator[_Surroundings]:
    with ExitStack() as stack:
        made = stack.enter_context(hosts(folder, names))
        environment = stack.enter_context(moto_server(folder, made.gateway))
        index = stack.enter_context(_package_index(folder, made.gateway))
        yield _Surroundings(folder, made, environment, index)


def _run_script(
    host: Host, script: str, environment: Mapping[str, str], *, check: bool
) -> subprocess.CompletedProcess[str]:
    path = host.folder / "boot-script.sh"
    path.write_text(script)
    return host.run(["bash", str(path)], env=environment, check=check, timeout_s=300)


@contextmanager
def _metadata(host: Host, instance: str) -> Iterator[None]:
    """The metadata service of an instance, at its own address in this host."""
    host.run(["ip", "addr", "replace", "169.254.169.254/32", "dev", "lo"])
    facts = json.dumps({"instance-id": instance, "local-ipv4": host.address})
    server = subprocess.Popen(
        host.inside([sys.executable, str(METADATA), facts]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield
    finally:
        server.communicate()  # it ends with its standard input


def _record(folder: Path, commands: Mapping[str, str]) -> Path:
    """Commands that write down how they were called, and do what is given."""
    folder.mkdir(exist_ok=True)
    for name, body in commands.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/called\n{body}\n')
        path.chmod(0o755)
    return folder / "called"


@contextmanager
def _removed(*folders: Path) -> Iterator[None]:
    """The hosts share the disk: what a script makes at its top is removed again, where it was not there before."""
    ours = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in ours:
            folder.rmdir()


@contextmanager
def _package_index(folder: Path, address: str) -> Iterator[str]:
    """A package index with `boto3`, whose wheel opens the tests' own packages: the real boto3, Ray, and tuneyard."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (folder / "simple/boto3").mkdir(parents=True)
    wheel = _small_wheel(folder, "boto3", "1.44.0", {"tests.pth": f"import site; site.addsitedir({packages!r})\n"})
    shutil.move(wheel, folder / "simple/boto3" / wheel.name)
    handler = partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer((address, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{address}:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        pass


def _small_wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in contents.items():
            wheel.writestr(place, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{place},,\n" for place in (*contents, f"{info}/RECORD")))
    return path

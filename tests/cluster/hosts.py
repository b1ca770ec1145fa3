"""Real hosts on one machine: network namespaces with addresses, sshd, processes and folders of their own.

A host has its own network, process ids, host name and shared memory, and its own contents under PRIVATE; the rest of
the disk, with the Python that runs the tests, is everybody's. Its processes are the children of one first process:
`kill` ends that one, and with it the host, as a cut power cord would. The test itself stands outside, at `gateway`.
"""

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PRIVATE = (
    "/opt/tuneyard",
    "/tmp/ray",
    "/root/.ray",
    "/root/.ssh",
    "/root/.aws",
    "/root/.tuneyard",
    "/root/.cache/tuneyard",
    "/var/spool/cron",
)
"""Folders that every host has to itself; they lie under `Host.folder` and can be looked into from outside."""
START_S = 20.0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One host.

    Attributes:
        folder: holds its private folders, each named like its path: `folder / "opt/tuneyard"`.
    """

    name: str
    address: str
    namespace: str
    link: str
    folder: Path
    keys: "Keys"
    _process: subprocess.Popen[bytes] | None = None
    _pid: int = 0

    def boot(self) -> None:
        """Start its first process, its sshd, and what its crontab has for @reboot, as after the power came back."""
        for path in PRIVATE:
            Path(path).mkdir(parents=True, exist_ok=True)
            (self.folder / path[1:]).mkdir(parents=True, exist_ok=True)
        (self.folder / "var/spool/cron/crontabs").mkdir(exist_ok=True)  # crontab(1) does not make it
        script = self.folder / "boot.sh"
        script.write_text(self._boot_script())
        inner = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(script)]
        with (self.folder / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(
                # The host ends with this process, even where that is killed.
                ["setpriv", "--pdeathsig=KILL", "ip", "netns", "exec", self.namespace, *inner],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not (self.folder / "up").exists():
            assert self._process.poll() is None, (self.folder / "boot.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "boot.log").read_text()
            time.sleep(0.05)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._pid = int(children[0])

    def run(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, check: bool = True,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on the host, past its sshd."""
        done = subprocess.run(
            self.inside(command), capture_output=True, text=True, timeout=timeout_s,
            env={**os.environ, **(env or {})}, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}\n{done.stderr}"
        return done

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line, for a Popen of one's own."""
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--uts", "--", *command]

    def processes(self) -> dict[int, str]:
        """The command lines of what runs there, by the ids that they have outside."""
        space = Path(f"/proc/{self._pid}/ns/pid").readlink() if self.alive else None
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if space is not None and (folder / "ns/pid").readlink() == space:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return {pid: line for pid, line in found.items() if line}

    @property
    def alive(self) -> bool:
        """Does its first process run?"""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """The power cord: every process is gone at once."""
        (self.folder / "up").unlink(missing_ok=True)
        if self._process is not None and self.alive:
            os.kill(self._pid, signal.SIGKILL)
            self._process.wait(20)

    def cut(self) -> None:
        """Its network cable is out."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        """The cable is back."""
        _ip("link", "set", self.link, "up")

    def _boot_script(self) -> str:
        mounts = "\n".join(f"mount --bind {shlex.quote(str(self.folder / path[1:]))} {path}" for path in PRIVATE)
        return f"""set -e
hostname {self.name}
{mounts}
mount -t tmpfs -o size=1g tmpfs /dev/shm
ip link set lo up
mkdir -p /run/sshd
/usr/sbin/sshd -f {shlex.quote(str(self.folder / "sshd_config"))} -E {shlex.quote(str(self.folder / "sshd.log"))}
if [ -e /var/spool/cron/crontabs/root ]; then
    sed -n 's/^@reboot *//p' /var/spool/cron/crontabs/root | while read -r line; do bash -c "$line" & done
fi
touch {shlex.quote(str(self.folder / "up"))}
set +e
while :; do wait; sleep 1; done
"""


@dataclass(frozen=True)
class Keys:
    """One client's key, which every host admits for root, and the hosts' own."""

    client: Path
    known_hosts: Path

    def configure(self, host: Host) -> None:
        """Write a host's keys and its sshd_config."""
        key = host.folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text().split()
        with self.known_hosts.open("a") as file:
            file.write(f"{host.address} {public[0]} {public[1]}\n")
        (host.folder / "sshd_config").write_text(
            f"ListenAddress {host.address}\nHostKey {key}\nAuthorizedKeysFile {self.client.with_suffix('.pub')}\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\n"
            "Subsystem sftp internal-sftp\nMaxStartups 50\nMaxSessions 50\n"
        )


@dataclass
class Hosts:
    """The hosts of one test, by name, in one network with the test itself.

    Attributes:
        gateway: the test's own address in it; a server that listens there is reached by all hosts.
        keys: `keys.client` is the private key that they admit, `keys.known_hosts` has theirs.
    """

    gateway: str
    keys: Keys
    by_name: dict[str, Host] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Host:
        return self.by_name[name]


@contextmanager
def hosts(folder: Path, names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts of these names, which run when this is entered, and of which nothing is left afterwards.

    `folder` must be on a disk that takes bind mounts, such as pytest's tmp_path. Needs root, iproute2 and sshd.
    """
    with ExitStack() as stack:
        number = stack.enter_context(_free_network())
        keys = Keys(folder / "client_key", folder / "known_hosts")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys.client)], check=True)
        bridge, gateway = f"tyb{number}", f"10.77.{number}.1"
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{gateway}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = Hosts(gateway, keys)
        for index, name in enumerate(names):
            host = Host(
                name, f"10.77.{number}.{10 + index}", f"ty{number}-{name}", f"tyv{number}x{index}", folder / name, keys
            )
            host.folder.mkdir()
            keys.configure(host)
            _wire(host, bridge, stack)
            stack.callback(host.kill)
            host.boot()
            made.by_name[name] = host
        yield made


def _drop_link(name: str) -> None:
    """No error where it has gone meanwhile."""
    subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _wire(host: Host, bridge: str, stack: ExitStack) -> None:
    _ip("netns", "add", host.namespace)
    stack.callback(_ip, "netns", "del", host.namespace)
    # Its other end goes with the namespace, which the kernel takes its time over: the next test may want the name.
    stack.callback(_drop_link, host.link)
    _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("link", "set", host.link, "master", bridge, "up")
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.namespace, "link", "set", "eth0", "up")


@contextmanager
def _free_network() -> Iterator[int]:
    """A number for 10.77.N.0/24 that no other test on this machine uses; held by a lock as long as this is open."""
    for number in range(1, 250):
        with Path(f"/tmp/tuneyard-network-{number}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            _remove_leftovers(number)
            yield number
            return
    raise AssertionError("all networks 10.77.N.0/24 are in use")


def _remove_leftovers(number: int) -> None:
    """What a killed test run left: nobody else holds the lock, so nobody uses it."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        if name.startswith(f"ty{number}-"):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout
            for pid in pids.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", name)
    for link in Path("/sys/class/net").glob(f"tyv{number}x*"):
        _drop_link(link.name)
    _drop_link(f"tyb{number}")

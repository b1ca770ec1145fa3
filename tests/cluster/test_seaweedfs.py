import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tuneyard.cluster import seaweedfs
from tuneyard.cluster.seaweedfs import SeaweedError, SeaweedServer

HOLD = """
import sys, time
from pathlib import Path
from tuneyard.cluster.seaweedfs import SeaweedServer
with SeaweedServer(Path(sys.argv[1])) as server:
    print(server.endpoint_url, flush=True)
    time.sleep(120)
"""


def processes_of(folder: Path) -> list[int]:
    """The processes whose command line names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and f"={folder}".encode() in command:
            found.append(int(entry.name))
    return found


def gone(folder: Path) -> bool:
    """Do the processes end within a generous time? What was killed is not gone in the same moment."""
    deadline = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(folder)


@pytest.mark.s3
def test_nothing_is_left_after_the_block_although_it_raises(tmp_path: Path) -> None:
    server = SeaweedServer(tmp_path)
    running = []
    try:
        with server:
            running = processes_of(tmp_path)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert running
    assert gone(tmp_path)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.endpoint_url, timeout=2)


@pytest.mark.s3
def test_nothing_is_left_when_the_process_that_holds_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        socket = Path(f"/tmp/seaweedfs-s3-{holder.stdout.readline().strip().rpartition(':')[2]}.sock")
        assert socket.exists()
        running = processes_of(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert len(running) > 1
    assert gone(tmp_path)
    assert not socket.exists()


@pytest.mark.s3
def test_it_has_sessions_of_its_own_so_that_ctrl_c_does_not_reach_it(s3_server: SeaweedServer) -> None:
    sessions = {os.getsid(process.pid) for process in s3_server._processes}
    assert sessions
    assert os.getsid(0) not in sessions


@pytest.mark.s3
def test_credentials_are_for_this_user_only(s3_server: SeaweedServer) -> None:
    assert (s3_server._folder / "s3.json").stat().st_mode & 0o077 == 0


@pytest.mark.s3
@pytest.mark.parametrize("name", ["x", "UPPER", "a/b", "../etc", "", "under_score"])
def test_a_name_that_s3_refuses_is_refused(s3_server: SeaweedServer, name: str) -> None:
    with pytest.raises(SeaweedError, match=f"bucket '{name}'"):
        s3_server.create_bucket(name)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no space left on this planet\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(seaweedfs, "_find_binary", lambda: broken)
    with pytest.raises(SeaweedError, match="no space left on this planet"), SeaweedServer(tmp_path / "data"):
        pass


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweedfs, "files", lambda _: None)
    with pytest.raises(SeaweedError, match=r"pip install 'tuneyard\[demo\]'"), SeaweedServer(tmp_path):
        pass

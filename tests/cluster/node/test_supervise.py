"""The service manager for machines without systemd: `serve` comes back, and nothing is left when it goes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tuneyard.cluster.node.processes import descendants

CODE = """
import sys
from pathlib import Path
from tuneyard.cluster.node import supervise
supervise.PAUSE_S = 0.1
supervise.POLL_S = 0.05
supervise.serve_command = lambda folder: ["sh", "-c", sys.argv[1]]
supervise.supervise(Path())
"""


def orphan(folder: Path) -> str:
    """A process in a session of its own, whose parent ends at once, and which does not heed SIGTERM."""
    return f"(setsid sh -c 'trap \"\" TERM; sleep 60; : {folder}' &) ; "


def started(serve: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CODE, serve])


def test_serve_is_started_again_and_its_orphans_end(tmp_path: Path) -> None:
    process = started(f"echo x >>{tmp_path}/starts; {orphan(tmp_path)} sleep 0.2; exit 1")
    try:
        wait_for_lines(tmp_path / "starts", 3)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert orphans_of(tmp_path) == []


def test_sigterm_ends_serve_and_all_below_it(tmp_path: Path) -> None:
    process = started(f"{orphan(tmp_path)} echo x >{tmp_path}/starts; exec sleep 60")
    try:
        wait_for_lines(tmp_path / "starts", 1)
        deadline = time.monotonic() + 10
        while len(below := descendants(process.pid)) < 3:  # serve, the orphan and the orphan's child
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [pid for pid in below if Path(f"/proc/{pid}/exe").exists()] == []


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def orphans_of(folder: Path) -> list[int]:
    """What still has this test's folder in its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] if str(folder).encode() in path.read_bytes() else []
        except OSError:
            continue
    return found

"""A node's processes are found by descent and by the mark, and are ended, whatever they do about signals."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tuneyard.cluster.node.processes import arguments_of, child_of, descendants, end, marked

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); time.sleep(60)"


def started(code: str, mark: Path | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, **({"TUNEYARD_NODE": str(mark)} if mark else {})}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_the_marked_are_found_and_nobody_else(tmp_path: Path) -> None:
    ours, others = started(PARENT, tmp_path), started(STUBBORN, tmp_path / "other")
    try:
        assert set(marked(tmp_path)) == {ours.pid, *descendants(ours.pid)}
        assert len(descendants(ours.pid)) == 1
    finally:
        end(lambda: [one for one in (*descendants(ours.pid), ours.pid, others.pid) if running(one)], 0.0)
        ours.wait()
        others.wait()


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = started(STUBBORN, tmp_path)
    began = time.monotonic()
    assert end(lambda: [process.pid] if process.poll() is None else [], 0.3) == []
    assert time.monotonic() - began < 30.0
    assert process.returncode == -9


def test_a_child_is_known_by_its_program_file() -> None:
    process = started(STUBBORN)
    try:
        assert child_of(os.getpid(), Path(sys.executable).resolve().name) == process.pid
        assert child_of(os.getpid(), "raylet") is None
    finally:
        process.kill()
        process.wait()


def test_the_arguments_of_a_process() -> None:
    command = ["sh", "-c", "echo; read _", "sh", "--a=1", "--b-c=x=y", "d=2"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        assert arguments_of(process.pid) == {"a": "1", "b-c": "x=y"}
    finally:
        process.communicate()
    assert arguments_of(process.pid) == {}


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()

"""Cores are held by one process at a time, and free again however that process ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tuneyard.tune.cores import ClaimedCores

CORES = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")

HOLD = """
import sys
from pathlib import Path
from tuneyard.tune.cores import ClaimedCores
claimed = ClaimedCores(int(sys.argv[1]), Path(sys.argv[2]))
print(*claimed.cores, flush=True)
sys.stdin.read()
"""


def hold(count: int, folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Another process that claims cores and keeps them until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(core) for core in process.stdout.readline().split()]


def claim(count: int, folder: Path) -> list[int]:
    """The cores that a claim gets now; they are given back."""
    claimed = ClaimedCores(count, folder)
    cores = claimed.cores
    claimed.release()
    return cores


@needs_two
def test_two_processes_get_different_cores(tmp_path: Path) -> None:
    process, theirs = hold(1, tmp_path)
    ours = ClaimedCores(1, tmp_path)
    assert len(theirs) == len(ours.cores) == 1
    assert not set(theirs) & set(ours.cores)
    ours.release()
    process.communicate()


def test_a_killed_process_leaves_its_cores_to_others(tmp_path: Path) -> None:
    process, theirs = hold(len(CORES), tmp_path)
    assert theirs == CORES
    assert claim(1, tmp_path) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert claim(len(CORES), tmp_path) == CORES


@needs_two
def test_where_too_few_are_free_none_is_held(tmp_path: Path) -> None:
    first = ClaimedCores(1, tmp_path)
    assert claim(len(CORES), tmp_path) == []
    first.release()
    assert claim(len(CORES), tmp_path) == CORES


def test_nothing_is_pinned_without_cores(tmp_path: Path) -> None:
    claimed = ClaimedCores(len(CORES) + 1, tmp_path)
    claimed.pin()
    assert sorted(os.sched_getaffinity(0)) == CORES


@needs_two
def test_threads_of_before_and_after_run_on_the_claimed_cores(tmp_path: Path) -> None:
    """In a process of its own: pinning cannot be taken back from threads that other tests' libraries have."""
    code = f"""
import os, threading
from pathlib import Path
from tuneyard.tune.cores import ClaimedCores
ready, found = threading.Event(), []
def look():
    ready.wait()
    found.append(os.sched_getaffinity(0))
before = threading.Thread(target=look)
before.start()
claimed = ClaimedCores(1, Path({str(tmp_path)!r}))
claimed.pin()
ready.set()
after = threading.Thread(target=look)
after.start()
before.join(), after.join()
assert found == [set(claimed.cores)] * 2, (found, claimed.cores)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_claims_that_are_made_at_once_share_no_core(tmp_path: Path) -> None:
    claims: list[ClaimedCores] = []
    threads = [threading.Thread(target=lambda: claims.append(ClaimedCores(1, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [core for claimed in claims for core in claimed.cores]
    assert sorted(held) == CORES[:8]
    for claimed in claims:
        claimed.release()


def test_a_claim_that_found_too_few_gets_them_later(tmp_path: Path) -> None:
    process, _ = hold(len(CORES), tmp_path)
    claimed = ClaimedCores(1, tmp_path)
    assert not claimed.claim()
    process.communicate()
    assert claimed.claim()
    assert claimed.cores == CORES[:1]
    claimed.release()


@needs_two
def test_two_claims_of_several_cores_at_once_do_not_leave_both_with_none(tmp_path: Path) -> None:
    claims: list[ClaimedCores] = []
    threads = [threading.Thread(target=lambda: claims.append(ClaimedCores(len(CORES), tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(claimed.cores) for claimed in claims) == [0] * 7 + [len(CORES)]
    for claimed in claims:
        claimed.release()

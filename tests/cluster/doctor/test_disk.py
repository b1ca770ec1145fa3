"""Room and speed of disks."""

from pathlib import Path

import pytest

from tuneyard.cluster.doctor.disk import Disk, Place, check_disks, judge, measure
from tuneyard.cluster.doctor.findings import Result

GB = 10**9


def disk(*, free: float = 500, total: float = 1000, write: float = 500, read: float = 900) -> Disk:
    return Disk(Path("/data"), int(free * GB), int(total * GB), write * 1e6, read * 1e6)


@pytest.mark.parametrize(
    ("found", "ray", "result"),
    [
        (disk(), True, Result.OK),
        (disk(free=0.5), False, Result.FAILURE),
        (disk(free=5, total=20), False, Result.WARNING),
        (disk(free=40), True, Result.FAILURE),  # 96 % full
        (disk(free=40), False, Result.OK),
        (disk(free=80), True, Result.WARNING),  # 92 % full
        (disk(write=20), False, Result.WARNING),
        (disk(read=20), False, Result.WARNING),
    ],
)
def test_judgement(found: Disk, ray: bool, result: Result) -> None:
    finding = judge("disk", found, ray=ray)
    assert finding.result is result
    assert bool(finding.advice) is (result is not Result.OK)


def test_this_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = measure(tmp_path)
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.write_bytes_per_s > 1e5
    assert found.read_bytes_per_s > 1e5
    assert list(tmp_path.iterdir()) == []


def test_places_on_one_disk_are_measured_once(tmp_path: Path) -> None:
    (found,) = check_disks([Place("cache", tmp_path / "not" / "yet" / "there"), Place("Ray", tmp_path, ray=True)])
    assert found.name == "disk: cache, Ray"
    assert str(tmp_path) in found.found
    assert not (tmp_path / "not").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (found,) = check_disks([Place("cache", Path("/proc/self"))])
    assert found.result is Result.FAILURE
    assert found.found.startswith("/proc/self: ")

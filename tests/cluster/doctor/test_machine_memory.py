"""Main and shared memory."""

from pathlib import Path

import pytest

from tuneyard.cluster.doctor import memory
from tuneyard.cluster.doctor.findings import Result
from tuneyard.cluster.doctor.memory import check_memory, container_limit, judge_main, judge_shared

GB = 10**9


@pytest.mark.parametrize(
    ("available", "result"), [(8 * GB, Result.OK), (1 * GB, Result.WARNING), (GB // 10, Result.FAILURE)]
)
def test_main_memory(available: int, result: Result) -> None:
    assert judge_main(available, 16 * GB, container=False).result is result


def test_dockers_64_megabytes_of_shared_memory_are_too_few() -> None:
    found = judge_shared(64 * 10**6, 64 * 10**6, 16 * GB)
    assert found.result is Result.WARNING
    assert "--shm-size" in found.advice
    assert judge_shared(8 * GB, 8 * GB, 16 * GB).result is Result.OK


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", limit))
    assert container_limit(16 * GB) == 16 * GB
    limit.write_text("max\n")
    assert container_limit(16 * GB) == 16 * GB
    limit.write_text(f"{4 * GB}\n")
    assert container_limit(16 * GB) == 4 * GB


def test_this_machine() -> None:
    assert [finding.name for finding in check_memory()] == ["memory", "shared memory"]

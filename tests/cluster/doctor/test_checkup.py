"""A check that crashes or hangs is a failure of its own; the others still run."""

import threading
from collections.abc import Iterator

from tuneyard.cluster.doctor.checkup import Check, run_checks
from tuneyard.cluster.doctor.findings import Finding, Result, ok


def fine() -> Iterator[Finding]:
    yield ok("fine", "all is well")


def crashes_late() -> Iterator[Finding]:
    yield ok("first half", "well")
    raise ZeroDivisionError("by zero")


def hangs_late() -> Iterator[Finding]:
    yield ok("first half", "well")
    threading.Event().wait()


def test_findings_come_in_order() -> None:
    assert [finding.name for finding in run_checks([Check("a", fine), Check("b", crashes_late)])][:2] == [
        "fine",
        "first half",
    ]


def test_a_crash_is_a_failure_of_that_check_alone() -> None:
    found = run_checks([Check("broken", crashes_late), Check("fine", fine)])
    assert [finding.name for finding in found] == ["first half", "broken", "fine"]
    assert found[1].result is Result.FAILURE
    assert "ZeroDivisionError: by zero" in found[1].found


def test_a_check_that_hangs_has_a_time_limit() -> None:
    found = run_checks([Check("stuck", hangs_late, limit_s=0.05), Check("fine", fine)])
    assert [finding.name for finding in found] == ["first half", "stuck", "fine"]
    assert found[1].result is Result.FAILURE
    assert "no answer within 0.05 s" in found[1].found

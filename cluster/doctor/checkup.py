"""Runs checks one after the other; one that crashes or hangs is a failure of its own, and the others still run."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tuneyard.cluster.doctor.findings import Finding, failure

_REPORT_IT = "This is a mistake of the check's own: please report it with this text. The other checks are not touched."


@dataclass(frozen=True, slots=True)
class Check:
    """A check, which yields what it finds as it finds it, and has `limit_s` for all of it."""

    name: str
    run: Callable[[], Iterable[Finding]]
    limit_s: float = 30.0


def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """What the checks found, in their order. One at a time, so that none disturbs what another measures."""
    return [finding for check in checks for finding in run_check(check)]


def run_check(check: Check) -> list[Finding]:
    """What one check found; what it had found when it crashed or ran out of time stays."""
    found: list[Finding] = []
    faults: list[Exception] = []

    def work() -> None:
        begun = time.monotonic()
        try:
            for finding in check.run():
                found.append(finding.model_copy(update={"took_s": round(time.monotonic() - begun, 3)}))
                begun = time.monotonic()
        except Exception as error:  # noqa: BLE001  (whatever it is, the other checks go on)
            faults.append(error)

    # A daemon: a system call that never returns cannot be ended, and must not hold up the end of the program.
    thread = threading.Thread(target=work, name=f"check-{check.name}", daemon=True)
    thread.start()
    thread.join(check.limit_s)
    so_far = list(found)
    if thread.is_alive():
        return [*so_far, _too_long(check)]
    return [*so_far, *(failure(check.name, f"the check failed: {_told(error)}", _REPORT_IT) for error in faults)]


def _too_long(check: Check) -> Finding:
    return failure(
        check.name,
        f"no answer within {check.limit_s:g} s",
        "What it looks at hangs: a driver, a disk or a network share. The system's log (dmesg) may say which.",
    )


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__

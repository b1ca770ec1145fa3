"""Starts the several worker processes of a run on this machine, and ends them together."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.parallel.process_group import free_port
from tuneyard.trainers.signals import StopSignals
from tuneyard.trainers.spec import TrialSpec

POLL_S = 0.1
GRACE_S = 30.0
EXIT_TOLD = 2
EXIT_STOPPED = 3


class WorkerError(TuneyardError):
    """A worker process failed; the text carries its last words."""


def train_in_processes(spec: TrialSpec, workers: int, threads: int) -> None:
    """Train with `workers` processes of `threads` threads each, joined by torchrun's variables over loopback.

    A signal is passed on to all of them; they agree on a step, save and leave. When one fails the others are ended.
    Raises InterruptedRunError after a stop and WorkerError after a failure.
    """
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as folder, StopSignals() as signals:
        path = Path(folder) / "spec.json"
        path.write_text(spec.model_dump_json())
        errors = [Path(folder) / f"worker-{rank}.txt" for rank in range(workers)]
        port = free_port()
        processes = [_start(path, rank, workers, threads, port, errors[rank]) for rank in range(workers)]
        try:
            codes = _wait(processes, signals)
        finally:
            _end(processes)
        if any(code not in (0, EXIT_STOPPED) for code in codes):
            raise WorkerError(_last_words(codes, errors))
        # Warnings, of trackers that failed for example; nothing in the usual case.
        sys.stderr.write(errors[0].read_text(errors="replace"))
        if any(codes):
            raise InterruptedRunError(f"run {spec.run_id} was stopped")


def _start(spec_path: Path, rank: int, workers: int, threads: int, port: int, errors: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    numbers = [str(number) for number in (rank, threads, workers, port)]
    command = [sys.executable, "-m", "tuneyard.trainers.parallel.worker", str(spec_path), *numbers]
    with errors.open("wb") as stderr:
        # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on once.
        return subprocess.Popen(command, env=environment, stderr=stderr, start_new_session=True)


def _wait(processes: list[subprocess.Popen[bytes]], signals: StopSignals) -> list[int | None]:
    """The exit statuses, once all have ended, or shortly after one has failed; None for one that still runs then."""
    passed_on = False
    deadline: float | None = None
    while any(process.poll() is None for process in processes):
        if signals.asked() and not passed_on:
            passed_on = True
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
        failed = [process for process in processes if process.poll() not in (None, 0, EXIT_STOPPED)]
        if failed and deadline is None:
            # The others may be in the middle of telling the same mistake; a broken collective never returns.
            deadline = time.monotonic() + 3.0
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return [process.poll() for process in processes]


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait(GRACE_S)


def _last_words(codes: list[int | None], errors: list[Path]) -> str:
    """The message of the first worker that told one; else how the one ended that failed first, and its last lines."""
    told = [rank for rank, code in enumerate(codes) if code == EXIT_TOLD]
    if told:
        return errors[told[0]].read_text(errors="replace").strip()
    killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    failed = [rank for rank, code in enumerate(codes) if code not in (None, 0, EXIT_STOPPED)]
    # One worker's end makes the others fail in the middle of their exchange: the cause is what was written first.
    rank = killed[0] if killed else min(failed, key=lambda rank: errors[rank].stat().st_mtime_ns)
    lines = "\n".join(errors[rank].read_text(errors="replace").strip().splitlines()[-15:]) or "it said nothing"
    code = codes[rank] or 0
    how = f"was ended by {signal.Signals(-code).name}" if killed else f"ended with status {code}"
    hint = " (is there enough memory?)" if killed else ""
    return f"Worker {rank} of {len(codes)} {how}{hint}:\n{lines}"

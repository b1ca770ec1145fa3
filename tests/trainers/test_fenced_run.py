"""A process that was cut off from its run and comes back: it stops, and what the run comes to is its replacement's."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainers.runs import (
    STEPS_PER_EPOCH,
    Changes,
    checkpoints_of,
    make_spec,
    same_bits,
    stored_record,
    stored_rows,
    stored_weights,
    train_run,
)
from tuneyard.trainers.checkpoints.fencing import claim_run
from tuneyard.trainers.errors import FencedError
from tuneyard.trainers.predictions import read_predictions
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import read_run
from tuneyard.trainers.run import Run
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store

SWEEP = {"sweep_id": "s1", "evaluate_test": False}
"""A leg of a sweep: its driver sees to it that one ends before the next begins, as far as it can reach them."""

TRAIN = """
import sys
from pathlib import Path
from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.parallel.worker import train_here
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
spec = TrialSpec.model_validate_json(Path(sys.argv[1]).read_text())
try:
    train_here(spec, Session(threads=1, cpu=True))
except TuneyardError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
SLOW: Changes = {"model.args": {"wait_s": 0.1}, "data.validation": {"split": 0.2, "predictions": True}}
DEADLINE_S = 240.0


@pytest.fixture
def cut_off(tmp_path: Path) -> Iterator[tuple[TrialSpec, "subprocess.Popen[str]"]]:
    """A run, and the process that trains it, which stands still after its first checkpoint."""
    spec = make_spec(tmp_path, SLOW, **SWEEP)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "spec.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            _stop_after_a_checkpoint(process, tmp_path / "runs" / spec.prefix / "checkpoints")
            yield spec, process
        finally:
            process.kill()


def _stop_after_a_checkpoint(process: "subprocess.Popen[str]", manifests: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not any(manifests.glob("*/manifest-*.json")):
        assert process.poll() is None, "it ended before it saved anything"
        assert time.monotonic() < deadline, "it saved nothing"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)


def files_of(spec: TrialSpec, folder: Path) -> dict[str, bytes]:
    """What lies in the run's folder itself."""
    found = (folder / "runs" / spec.prefix).glob("*")
    return {path.name: path.read_bytes() for path in found if path.is_file()}


def test_the_run_is_its_replacements(cut_off: tuple[TrialSpec, "subprocess.Popen[str]"], tmp_path: Path) -> None:
    spec, process = cut_off
    undisturbed = make_spec(tmp_path / "undisturbed", SLOW, **SWEEP)
    train_run(undisturbed)
    resumed = spec.model_copy(update={"resume": True})
    assert train_run(resumed).status == "completed"
    record, saved, files = stored_record(spec), checkpoints_of(spec).infos(), files_of(spec, tmp_path)

    os.kill(process.pid, signal.SIGCONT)
    _, told = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 1
    assert "FencedError: attempt 1 at run r1 was replaced by attempt 2" in told
    assert files_of(spec, tmp_path) == files, "its record, metrics and predictions"
    assert checkpoints_of(spec).infos() == saved
    assert same_bits(stored_weights(spec), stored_weights(undisturbed))
    assert stored_rows(spec) == stored_rows(undisturbed)
    assert (record.attempt, record.status) == (2, "completed")


def begun(spec: TrialSpec) -> Run:
    """A run whose first epoch is trained and saved."""
    run = Run(spec, Session(threads=1, cpu=True), Silent(), lambda: False)
    assert next(run.epochs()).metrics["epoch"] == 1
    run.checkpoints.wait()
    return run


def test_a_replaced_run_leaves_neither_record_nor_predictions(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"data.validation": {"split": 0.2, "predictions": True}}, **SWEEP)
    store = open_store(spec.store_uri)
    run = begun(spec)
    assert run.record.attempt == 1
    claim_run(store, spec.prefix, spec.run_id, alone=False)
    with pytest.raises(FencedError):
        run.finish("completed")
    assert read_run(store, spec.prefix).status == "running"
    assert read_predictions(store, spec.prefix).step == STEPS_PER_EPOCH


def test_a_replaced_run_ends_in_the_epoch_after(tmp_path: Path) -> None:
    """Also where it would save only at its end."""
    spec = make_spec(tmp_path, {"train.epochs": 30, "checkpoint.every_epochs": 30}, **SWEEP)
    run = Run(spec, Session(threads=1, cpu=True), Silent(), lambda: False)
    epochs = run.epochs()
    next(epochs)
    claim_run(run.store, spec.prefix, spec.run_id, alone=False)
    with pytest.raises(FencedError):
        list(epochs)
    assert run.trainer.epoch < 30
    with pytest.raises(FencedError):
        run.finish("failed", "FencedError")


def test_a_run_that_ended_says_so_in_its_claim(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train.epochs": 1})
    train_run(spec)
    claims = tmp_path / "runs" / spec.prefix / "claims"
    assert sorted(path.name for path in claims.iterdir()) == ["000001-ended.json", "000001.json"]

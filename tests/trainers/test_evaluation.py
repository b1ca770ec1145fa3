"""A finished run's test metrics, and whose record they go into."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainers.runs import make_spec, stored_record, train_run
from tuneyard.trainers import evaluation
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.evaluation import evaluate_on_test
from tuneyard.trainers.record import write_record
from tuneyard.trainers.session import Session
from tuneyard.trainers.stores.store import open_store


def test_who_takes_the_run_up_meanwhile_keeps_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path, {"train.epochs": 1}, evaluate_test=False)
    train_run(spec)
    newer = stored_record(spec).model_copy(update={"attempt": 2, "status": "running"})

    def taken_up(*given: Any) -> dict[str, float]:
        write_record(open_store(spec.store_uri), spec.prefix, newer)
        return {"test/accuracy": 1.0}

    monkeypatch.setattr(evaluation, "test_metrics", taken_up)
    with pytest.raises(CheckpointError, match="was taken up again while it was evaluated"):
        evaluate_on_test(spec, Session(threads=1, cpu=True))
    assert stored_record(spec) == newer

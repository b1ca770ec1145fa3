import threading
import time

import pytest
import torch

from tuneyard.trainers.checkpoints import copying
from tuneyard.trainers.checkpoints.staging import Staging, pack_state


def staged(weights: torch.Tensor) -> Staging:
    staging = Staging()
    staging.stage(pack_state({"model": {"weights": weights}}), steady={weights.data_ptr()})
    return staging


def test_the_bytes_are_complete_also_where_the_training_waits_for_their_copy_already() -> None:
    may_copy = threading.Event()
    copying._background().submit(may_copy.wait, 60)  # whatever is to be copied later comes after this
    weights = torch.ones(2**10)
    staging = staged(weights)
    training = threading.Thread(target=staging.settle)
    training.start()
    time.sleep(0.05)
    threading.Timer(0.05, may_copy.set).start()
    (piece,) = staging.parts["model"].pieces()
    assert bytes(piece) == weights.numpy().tobytes()
    training.join(60)


def test_a_copy_that_failed_is_an_error_in_the_training_and_where_its_bytes_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(copying, "copy_all", fail)
    staging = staged(torch.ones(2**10))
    with pytest.raises(MemoryError):
        staging.settle()
    with pytest.raises(MemoryError):
        staging.parts["model"].pieces()

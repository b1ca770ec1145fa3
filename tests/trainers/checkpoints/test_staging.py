import re
import threading
import time
from pathlib import Path

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


def test_the_memory_of_copies_is_not_held_twice_by_processes_that_are_forked() -> None:
    staging = staged(torch.ones(2**10))
    place = staging.parts["model"].layout.places[0]
    address = staging.parts["model"]._views[place.spec.name].data_ptr()
    assert "dc" in flags_of_mapping(address)  # "do not copy area on fork", proc(5)


def flags_of_mapping(address: int) -> list[str]:
    """The kernel's flags of the piece of this process's memory that `address` lies in."""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            within = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif within and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no mapping holds it")

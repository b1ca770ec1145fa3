"""A worker that holds too much memory is ended with a word, and what it held is given back."""

import numpy as np
import pytest
import torch

from tuneyard.trainers.errors import ModelError, OutOfMemoryError
from tuneyard.trainers.memory import held_bytes, ran_out_of_memory, release_memory
from tuneyard.trainers.memory_limit import STEPS_BETWEEN_LOOKS, MemoryLimit
from tuneyard.trainers.progress import Silent


def test_what_is_held_grows_and_shrinks_with_what_is_used() -> None:
    before = held_bytes()
    held = np.ones(100_000_000, np.uint8)
    assert 90e6 < held_bytes() - before < 130e6
    del held
    release_memory()
    assert held_bytes() - before < 30e6


def test_the_limit_is_looked_at_every_few_steps() -> None:
    watcher = MemoryLimit(Silent(), held_bytes() / 1e9 + 0.05)
    loss = torch.zeros(())
    watcher.epoch_begins(0, 100, 0)
    held = np.ones(100_000_000, np.uint8)
    for _ in range(STEPS_BETWEEN_LOOKS - 1):
        watcher.step_done(1, loss)
    with pytest.raises(OutOfMemoryError, match="memory_per_worker_gb allows"):
        watcher.step_done(1, loss)
    del held
    watcher.epoch_ended({})


def test_a_process_that_still_holds_too_much_says_so() -> None:
    assert release_memory(held_bytes() * 2)
    assert not release_memory(held_bytes() / 2)


def test_the_lack_of_memory_is_known_in_every_disguise() -> None:
    with pytest.raises(RuntimeError) as allocation:
        torch.empty(2**62, dtype=torch.uint8)
    wrapped = ModelError("cannot be built")
    wrapped.__cause__ = allocation.value
    for error in (allocation.value, wrapped, MemoryError(), OutOfMemoryError("x"), torch.OutOfMemoryError("x")):
        assert ran_out_of_memory(error), error
    assert not ran_out_of_memory(RuntimeError("CUDA error: device-side assert"))

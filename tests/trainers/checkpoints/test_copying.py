"""Copies in main memory: of every kind of tensor, small and large, by several threads."""

import pytest
import torch

from tuneyard.trainers.checkpoints import copying
from tuneyard.trainers.checkpoints.copying import copy_all

LARGE = (3, 64, 200, 200)  # 30 MB of floats: many pieces


def tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    """Contiguous, channels last, of no dense memory, few, one and none."""
    plain = torch.randint(0, 100, LARGE).to(dtype)
    last = plain.to(memory_format=torch.channels_last)
    return [plain, last, plain[:, :, ::2, :], plain.transpose(2, 3), plain[0, 0, :3], plain[0, 0, 0, 0], plain[:0]]


def goals_for(sources: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.full_like(source, 7) for source in sources]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.complex64])
def test_every_element_arrives(dtype: torch.dtype) -> None:
    sources = tensors(dtype)
    goals = goals_for(sources)
    copy_all(zip(goals, sources, strict=True))
    assert all(torch.equal(goal, source) for goal, source in zip(goals, sources, strict=True))


def test_every_element_arrives_with_one_core_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_THREADS", 1)
    sources = tensors(torch.float32)
    goals = goals_for(sources)
    copy_all(zip(goals, sources, strict=True))
    assert all(torch.equal(goal, source) for goal, source in zip(goals, sources, strict=True))


def test_the_bits_of_a_nan_arrive() -> None:
    source = torch.full((2**20,), float("nan"))
    goal = torch.zeros_like(source)
    copy_all([(goal, source)])
    assert torch.equal(goal.view(torch.int32), source.view(torch.int32))

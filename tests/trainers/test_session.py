"""What a process keeps from run to run."""

import pytest
import torch

from tuneyard.trainers.session import Session


@pytest.mark.parametrize(
    ("cpu", "gpu_share", "set_to"), [(False, 0.25, [0.25]), (False, 1.0, []), (False, 0.0, []), (True, 0.25, [])]
)
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    cpu: bool, gpu_share: float, set_to: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", heard.append)
    Session(threads=torch.get_num_threads(), cpu=cpu, gpu_share=gpu_share)
    assert heard == set_to

"""Tests for the optimizers that leave torch's compiler out."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from tuneyard.trainers import quick_optimizers

SETTINGS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.1, "weight_decay": 0.05, "fused": True},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "fused": True},
}


def _weights_after_steps(optimizer_class: Any, settings: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    weight = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 12).view(3, 4))
    optimizer = optimizer_class([weight], **settings)
    for step in range(5):
        optimizer.zero_grad(set_to_none=True)
        (weight.sin() * (step + 1)).sum().backward()
        optimizer.step()
    return weight.detach(), optimizer


@pytest.mark.parametrize("name", SETTINGS)
def test_the_steps_are_those_of_torch(name: str) -> None:
    ours, optimizer = _weights_after_steps(getattr(quick_optimizers, name), SETTINGS[name])
    theirs, reference = _weights_after_steps(getattr(torch.optim, name), SETTINGS[name])

    assert torch.equal(ours, theirs)
    torch.testing.assert_close(optimizer.state_dict(), reference.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_state_goes_from_one_to_the_other(name: str) -> None:
    _, optimizer = _weights_after_steps(getattr(quick_optimizers, name), SETTINGS[name])
    fresh = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(3, 4))], **SETTINGS[name])

    fresh.load_state_dict(optimizer.state_dict())

    torch.testing.assert_close(fresh.state_dict(), optimizer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_torchs_compiler_stays_out(name: str) -> None:
    program = f"""
import sys, torch
from tuneyard.trainers import quick_optimizers
weight = torch.nn.Parameter(torch.ones(3))
optimizer = quick_optimizers.{name}([weight], **{SETTINGS[name]!r})
torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False)

    assert done.returncode == 0

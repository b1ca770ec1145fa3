"""Which parameters decay, and the shape of the learning rate over a run."""

from typing import Any

import pytest
import torch
from torch import nn

from tuneyard.trainers.config.training import OptimizerConfig, ScheduleConfig
from tuneyard.trainers.optim import build_optimizer, build_schedule
from tuneyard.trainers.small_cnn import SmallCnn

STEPS_PER_EPOCH = 10


def rates(epochs: int, optimizer: OptimizerConfig | None = None, **schedule: Any) -> list[float]:
    """The learning rate of every step of a run, and what it would be after the last."""
    config = optimizer or OptimizerConfig(lr=0.1)
    built = build_optimizer(config, nn.Linear(2, 2))
    plan = build_schedule(
        ScheduleConfig(**schedule), built, lr=config.lr, epochs=epochs, steps_per_epoch=STEPS_PER_EPOCH
    )
    found = []
    for _ in range(epochs * STEPS_PER_EPOCH):
        found.append(float(built.param_groups[0]["lr"]))
        built.step()
        plan.step()
    return [*found, float(built.param_groups[0]["lr"])]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_do_not_decay(name: Any) -> None:
    model = SmallCnn(channels=1, classes=3, width=4)
    decayed, free = build_optimizer(OptimizerConfig(name=name, weight_decay=0.3), model).param_groups
    kernels = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert {id(parameter) for parameter in decayed["params"]} == kernels
    assert {id(p) for p in free["params"]} == {id(p) for p in model.parameters()} - kernels
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)


def test_a_frozen_parameter_is_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = build_optimizer(OptimizerConfig(), model).param_groups
    assert [parameter for group in groups for parameter in group["params"]] == [model.bias]


def test_the_optimizers_get_their_settings() -> None:
    adamw = build_optimizer(OptimizerConfig(betas=[0.8, 0.99], lr=0.5), nn.Linear(2, 2))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["lr"]) == ((0.8, 0.99), 0.5)
    sgd = build_optimizer(OptimizerConfig(name="sgd", momentum=0.7), nn.Linear(2, 2))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.7, True)


def test_sgd_without_momentum_is_possible() -> None:
    build_optimizer(OptimizerConfig(name="sgd", momentum=0.0), nn.Linear(2, 2)).step()


def test_constant_stays_at_the_peak() -> None:
    assert rates(2, name="constant") == [0.1] * 21


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_the_warm_up_rises_in_equal_steps_to_the_peak(name: str) -> None:
    assert rates(3, name=name, warmup_epochs=0.5)[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


def test_cosine_begins_at_the_peak_and_ends_at_zero() -> None:
    found = rates(4, name="cosine")
    assert found[0] == pytest.approx(0.1)
    assert found[20] == pytest.approx(0.05)
    assert found[-1] == pytest.approx(0.0, abs=1e-12)
    assert found == sorted(found, reverse=True)


def test_cosine_ends_at_the_final_ratio() -> None:
    found = rates(4, name="cosine", warmup_epochs=1, final_ratio=0.2)
    assert found[10] == pytest.approx(0.1)
    assert found[25] == pytest.approx(0.06)
    assert found[-1] == pytest.approx(0.02)


def test_onecycle_rises_to_the_peak_over_the_warm_up_and_falls_to_its_end() -> None:
    found = rates(5, name="onecycle", warmup_epochs=2, final_ratio=0.01)
    assert found[0] == pytest.approx(0.1 / 25)
    assert found.index(max(found)) in (19, 20)
    assert max(found) == pytest.approx(0.1, rel=0.01)
    assert found[-1] == pytest.approx(0.001)


def test_onecycle_without_a_warm_up_peaks_after_three_tenths() -> None:
    found = rates(10, name="onecycle")
    assert found.index(max(found)) in (29, 30)
    assert found[-1] == pytest.approx(0.1 * 1e-4)


def test_onecycle_moves_the_momentum_the_other_way() -> None:
    built = build_optimizer(OptimizerConfig(name="sgd", lr=0.1), nn.Linear(2, 2))
    plan = build_schedule(ScheduleConfig(name="onecycle", warmup_epochs=1), built, lr=0.1, epochs=2, steps_per_epoch=10)
    found = []
    for _ in range(20):
        found.append(built.param_groups[0]["momentum"])
        built.step()
        plan.step()
    assert found.index(min(found)) in (9, 10)
    assert found[0] == max(found)


def test_onecycle_leaves_sgd_without_momentum_without() -> None:
    built = build_optimizer(OptimizerConfig(name="sgd", lr=0.1, momentum=0.0), nn.Linear(2, 2))
    build_schedule(ScheduleConfig(name="onecycle"), built, lr=0.1, epochs=2, steps_per_epoch=10)
    assert built.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize("name", ["constant", "cosine", "onecycle"])
def test_a_run_of_one_step_is_possible(name: Any) -> None:
    built = build_optimizer(OptimizerConfig(), nn.Linear(2, 2))
    plan = build_schedule(ScheduleConfig(name=name), built, lr=1e-3, epochs=1, steps_per_epoch=1)
    built.step()
    plan.step()
    assert 0 <= plan.get_last_lr()[0] <= 1e-3

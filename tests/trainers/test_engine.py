"""What an engine does with one worker, and with the smallest of groups."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.parallel.zero import LossScale

Parts = tuple[Engine, nn.Module, torch.optim.Optimizer]


@pytest.fixture
def half() -> Iterator[Parts]:
    """A prepared model of one weight, 1.0, in fp16, with SGD of learning rate 1."""
    engine = Engine(TrainConfig(precision="fp16"), cpu=True)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    yield engine, *engine.prepare(model, optimizer)
    engine.close()


def weight(parts: Parts) -> float:
    return float(parts[0].unwrap(parts[1]).state_dict()["weight"])


def scale(engine: Engine) -> float:
    assert engine.scaler is not None
    return float(engine.scaler.state_dict()["scale"])


def test_a_model_computes_in_half_precision_and_answers_in_single(half: Parts) -> None:
    # 1 + 2**-11 is no number of half precision.
    outputs = half[1](torch.full((1, 1), 1 + 2**-11))
    assert (outputs.dtype, float(outputs.detach())) == (torch.float32, 1.0)


def test_gradients_are_unscaled_before_the_step(half: Parts) -> None:
    engine, model, optimizer = half
    engine.backward(model(torch.ones(1, 1)).sum() * 0.25)
    engine.step(optimizer)
    assert weight(half) == 0.75


def test_gradients_are_unscaled_before_they_are_clipped(half: Parts) -> None:
    engine, model, optimizer = half
    engine.backward(model(torch.ones(1, 1)).sum() * 0.25)
    engine.clip(model, optimizer, 0.125)
    engine.step(optimizer)
    assert weight(half) == pytest.approx(0.875, rel=1e-5)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale(half: Parts) -> None:
    engine, model, optimizer = half
    before = scale(engine)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    engine.backward(model(torch.full((1, 1), 1e4)).sum())
    engine.step(optimizer)
    schedule.step()
    assert (weight(half), scale(engine)) == (1.0, before / 2)


def test_the_two_kinds_of_loss_scale_move_alike() -> None:
    plain = torch.amp.GradScaler("cpu", growth_interval=3)
    ours = LossScale()
    ours.load_state_dict(plain.state_dict())
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for overflow in (False, True, False, False, False, False):
        plain.scale(parameter.sum() * (float("inf") if overflow else 1.0)).backward()
        plain.step(optimizer)
        plain.update()
        optimizer.zero_grad()
        ours.update(overflow=overflow)
        assert ours.state_dict() == plain.state_dict()
    plain.load_state_dict(ours.state_dict())


def test_a_group_outlives_the_engines_in_it() -> None:
    process_group.join(
        rank=0, world_size=1, local_rank=0, local_world_size=1, address="127.0.0.1", port=process_group.free_port(),
        backend="gloo",
    )  # fmt: skip
    try:
        for _ in range(2):
            engine = Engine(TrainConfig(), cpu=True)
            assert (engine.rank, engine.world_size, engine.gather({"a": 1})) == (0, 1, [{"a": 1}])
            engine.close()
            assert process_group.joined()
    finally:
        process_group.leave()


def test_random_states_that_lie_within_another_buffer_are_restored() -> None:
    engine = Engine(TrainConfig(), cpu=True)
    states = engine.random_states()
    expected = torch.rand(4)
    # As a checkpoint is read: many tensors in one buffer.
    state = states[0]["torch"]
    buffer = torch.cat([torch.zeros(64, dtype=torch.uint8), state])
    engine.restore_random([states[0] | {"torch": buffer[64:]}])
    found = torch.rand(4)
    engine.close()
    assert torch.equal(found, expected)

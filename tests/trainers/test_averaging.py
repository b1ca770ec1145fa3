"""The moving average of the weights: what it is, when it is used, and that a resumed run has the same."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainers.runs import STEPS_PER_EPOCH, checkpoints_of, make_spec, same_bits, stored_rows, train_run
from tuneyard.trainers.averaging import AveragedWeights
from tuneyard.trainers.build import build_trainer
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec


def trained(folder: Path, *stops: int) -> TrialSpec:
    """A run with averaged weights, stopped after so many steps of each attempt."""
    spec = make_spec(folder, {"train.ema_epochs": 0.5})
    for steps in stops:
        with pytest.raises(InterruptedRunError):
            train_run(spec, stop_after=steps)
        spec = spec.model_copy(update={"resume": True})
    train_run(spec)
    return spec


def average_of(spec: TrialSpec) -> dict[str, torch.Tensor]:
    average: dict[str, torch.Tensor] = checkpoints_of(spec).load_parts(["average"])["average"]
    return average


def test_it_moves_towards_the_weights_quickly_at_first_and_by_its_span_later() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = AveragedWeights(module, span_steps=4.0)
    expected, seen = 0.0, []
    for step in range(1, 60):
        module.weight.data.fill_(float(step))
        average.update()
        expected += (step - expected) * max(1 / 4, 9 / (step + 9))
        seen.append(average.state()["weight"].item() - expected)
    assert seen == pytest.approx([0.0] * 59, abs=1e-4)
    assert expected == pytest.approx(59 - 3, abs=0.01)  # it lags behind by its span, less the step itself


def test_counters_are_taken_as_they_are() -> None:
    module = nn.BatchNorm1d(2)
    average = AveragedWeights(module, span_steps=10.0)
    module.train()(torch.randn(4, 2))
    average.update()
    assert average.state()["num_batches_tracked"] == 1


def test_the_module_has_its_own_weights_again_afterwards_also_after_a_failure() -> None:
    module = nn.Linear(3, 2)
    average = AveragedWeights(module, span_steps=10.0)
    first = module.weight.detach().clone()
    module.weight.data.add_(1.0)

    def fail_inside() -> None:
        with average.in_place():
            assert torch.equal(module.weight, first)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert torch.equal(module.weight, first + 1.0)


def test_the_weights_that_are_trained_are_those_of_a_run_without_it(tmp_path: Path) -> None:
    with_it, without = trained(tmp_path / "with"), make_spec(tmp_path / "without")
    train_run(without)
    for spec in (with_it, without):
        assert stored_rows(spec)[-1]["epoch"] == 3
    weights = [checkpoints_of(spec).load_parts(["model"])["model"] for spec in (with_it, without)]
    assert same_bits(weights[0], weights[1])
    assert stored_rows(with_it)[0]["val/loss"] != stored_rows(without)[0]["val/loss"]


def test_a_stopped_run_goes_on_to_the_same_average(tmp_path: Path) -> None:
    whole, stopped = trained(tmp_path / "whole"), trained(tmp_path / "stopped", 3, STEPS_PER_EPOCH)
    assert same_bits(average_of(whole), average_of(stopped))
    assert stored_rows(whole) == stored_rows(stopped)


def test_what_a_run_was_judged_by_is_what_its_checkpoint_gives_back(tmp_path: Path) -> None:
    spec = trained(tmp_path)
    session = Session(threads=1, cpu=True)
    data = session.data(spec.experiment.data, tmp_path)
    trainer = build_trainer(spec, session, data, Engine(spec.experiment.train, cpu=True), Silent(), lambda: False)
    trainer.load_judged(checkpoints_of(spec).load_parts([trainer.judged_part])[trainer.judged_part])
    assert trainer.evaluate(trainer.validation).metrics["val/loss"] == stored_rows(spec)[-1]["val/loss"]

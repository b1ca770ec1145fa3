"""What population-based training cannot do is told before anything starts."""

from typing import Any

import pytest

from tuneyard.trainers.config.checks import check_experiment
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.errors import ConfigError

LR = {"loguniform": [1e-4, 1e-2]}


def sweep(space: dict[str, Any], tune: dict[str, Any], epochs: int = 10) -> None:
    tree = {"name": "x", "data": {"source": "digits", "image_size": 8}, "train": {"epochs": epochs}}
    check_experiment(validate(tree | {"tune": {"space": space, **tune}}, where="x"), sweep=True)


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_values_that_may_change_midway_can_be_searched(scheduler: str) -> None:
    space = {
        "optimizer.lr": LR,
        "optimizer.betas": {"choice": [[0.9, 0.99], [0.9, 0.999]]},
        "train.label_smoothing": {"uniform": [0.0, 0.2]},
        "data.augment.0.HorizontalFlip.p": {"uniform": [0.0, 1.0]},
    }
    tree = {"name": "x", "data": {"source": "digits", "image_size": 8, "augment": [{"HorizontalFlip": {"p": 0.5}}]}}
    check_experiment(validate(tree | {"tune": {"space": space, "scheduler": scheduler}}, where="x"), sweep=True)


@pytest.mark.parametrize("key", ["optimizer.name", "train.batch_size", "model.args.width"])
def test_values_that_are_fixed_in_the_middle_of_a_training_are_refused(key: str) -> None:
    choices = {"optimizer.name": ["adamw", "sgd"], "train.batch_size": [32, 64], "model.args.width": [4, 8]}[key]
    space = {"optimizer.lr": LR, key: {"choice": choices}}
    with pytest.raises(ConfigError, match=rf"tune\.space\.{key}: tune\.scheduler pbt changes values in the middle"):
        sweep(space, {"scheduler": "pbt"})
    sweep(space, {"scheduler": "asha"})


def test_a_population_of_three_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.trials: 3 members are too few .* needs at least 4"):
        sweep({"optimizer.lr": LR}, {"scheduler": "pb2", "trials": 3})


def test_members_that_would_never_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.perturb_epochs: 5 leaves no comparison .* epoch 5; give less"):
        sweep({"optimizer.lr": LR}, {"scheduler": "pbt", "perturb_epochs": 5}, epochs=5)


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_more_grace_than_epochs_is_refused(scheduler: str) -> None:
    with pytest.raises(ConfigError, match=r"tune\.grace_epochs: 6 is more than train\.epochs, which is 5"):
        sweep({"optimizer.lr": LR}, {"scheduler": scheduler, "grace_epochs": 6}, epochs=5)


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_is_not_cross_validated(scheduler: str) -> None:
    data = {"source": "digits", "image_size": 8, "validation": {"folds": 3}}
    tune = {"space": {"optimizer.lr": LR}, "scheduler": scheduler}
    with pytest.raises(ConfigError, match=r"data\.validation\.folds: members of a population copy each other"):
        check_experiment(validate({"name": "x", "data": data, "tune": tune}, where="x"), sweep=True)

"""Combinations that cannot be, each told before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainers.runs import make_project
from tuneyard.trainers.classification import Classification
from tuneyard.trainers.config.checks import (
    check_augment,
    check_experiment,
    check_metric,
    check_resumed,
    check_task_and_model,
)
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment, set_path, validate
from tuneyard.trainers.errors import CheckpointError, ConfigError, ModelError

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
CLASSES = ["a", "b", "c"]
LR = {"loguniform": [1e-4, 1e-2]}


def experiment(changes: dict[str, Any] | None = None) -> Experiment:
    tree: dict[str, Any] = {"name": "x", "data": {"source": "digits", "image_size": 8}}
    for key, value in (changes or {}).items():
        set_path(tree, key, value)
    return validate(tree, where="x")


def sweep(space: dict[str, Any], changes: dict[str, Any] | None = None) -> Experiment:
    return experiment({"tune.space": space, **(changes or {})})


def refusal(given: Experiment, workers: int = 1) -> str:
    with pytest.raises(ConfigError) as caught:
        check_experiment(given, workers=workers)
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_possible(path: Path) -> None:
    loaded = load_experiment(path)
    check_experiment(loaded, sweep=loaded.tune is not None)
    check_augment(loaded, channels=1)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_a_warm_up_longer_than_the_training() -> None:
    message = refusal(experiment({"schedule.warmup_epochs": 3, "train.epochs": 3}))
    assert "schedule.warmup_epochs: 3 must be below train.epochs, which is 3" in message


def test_a_batch_too_small_for_its_workers_and_accumulation() -> None:
    given = experiment({"train": {"batch_size": 7, "accumulate": 4}})
    check_experiment(given, workers=1)
    assert "7 is the global batch, and cannot be shared by 2 worker(s) times train.accumulate 4; give at least 8" in (
        refusal(given, workers=2)
    )


def test_deepspeed_settings_that_the_strategy_cannot_use() -> None:
    message = refusal(experiment({"train.deepspeed": {"offload": "optimizer"}}))
    assert "train.deepspeed: given, but train.strategy is ddp" in message
    message = refusal(experiment({"train.deepspeed": {"offload": "all"}, "train.strategy": "zero2"}))
    assert "train.deepspeed.offload: all moves the parameters too, which only zero3 can" in message
    check_experiment(experiment({"train.deepspeed": {"offload": "all"}, "train.strategy": "zero3"}))


def test_averaged_weights_where_no_worker_has_whole_ones() -> None:
    message = refusal(experiment({"train.ema_epochs": 1.0, "train.strategy": "zero3"}))
    assert "train.ema_epochs: under zero3 no worker has whole weights" in message


def test_a_normalization_for_other_channels() -> None:
    normalize = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}
    message = refusal(experiment({"data.normalize": normalize, "data.channels": 1}))
    assert "data.normalize: 3 channels given, but data.channels is 1" in message


def test_no_channels() -> None:
    assert "data.channels: given 0; allowed: auto, or a whole number from 1" in refusal(
        experiment({"data.channels": 0})
    )


def test_a_sweep_without_a_space() -> None:
    with pytest.raises(ConfigError, match=r"tune: missing; a sweep needs at least tune\.space"):
        check_experiment(experiment(), sweep=True)


@pytest.mark.parametrize(
    "key", ["name", "task", "data", "data.source", "checkpoint.store", "resources.workers", "tune"]
)
def test_a_key_that_is_the_same_for_the_whole_sweep(key: str) -> None:
    message = refusal(sweep({key: {"choice": ["a", "b"]}}))
    assert f"tune.space.{key}: this key is the same for a whole sweep" in message


@pytest.mark.parametrize(
    ("key", "domain", "message"),
    [
        ("optimizer.rate", LR, "optimizer.rate: unknown key. Allowed: name, lr,"),
        ("optimiser.lr", LR, "optimiser: unknown key. Did you mean 'optimizer'?"),
        ("optimizer.lr", {"uniform": [-1, 1]}, "optimizer.lr: given -1.0; allowed: greater than 0"),
        ("data.validation.split", {"uniform": [0.5, 1.5]}, "data.validation.split: given 1.5; allowed: less than 1"),
        ("train.epochs", {"uniform": [1, 3]}, "train.epochs: given 1.0; allowed: a whole number"),
        ("train.precision", {"choice": ["fp32", "fp8"]}, "train.precision: given 'fp8'"),
        ("data.augment.0.Affine.rotate", {"choice": [1]}, "data.augment: given"),
    ],
)
def test_a_swept_key_that_does_not_exist_or_whose_values_are_not_allowed(
    key: str, domain: dict[str, Any], message: str
) -> None:
    assert f"tune.space.{key}: {message}" in refusal(sweep({key: domain}))


@pytest.mark.parametrize("domain", [{"uniform": [0.1, 1]}, LR])
def test_a_grid_over_a_range_without_steps(domain: dict[str, Any]) -> None:
    message = refusal(sweep({"optimizer.lr": domain}, {"tune.search": "grid"}))
    assert "has no end of values, and tune.search is grid; give choice, randint or a quantized range" in message


MOMENTUM = {"uniform": [0.5, 0.9], "when": {"optimizer.name": "sgd"}}
NAMES = {"choice": ["sgd", "adamw"]}
BOTH = {"optimizer.name": NAMES, "optimizer.momentum": MOMENTUM}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optimizer.momentum": MOMENTUM}, "optimizer.momentum.when (a key of tune.space): 'optimizer.name'"),
        ({"optimizer.name": {"choice": ["adamw"]}, "optimizer.momentum": MOMENTUM}, 'given "sgd"; allowed: "adamw"'),
        (
            {"optimizer.lr": LR, "optimizer.momentum": {"uniform": [0.5, 0.9], "when": {"optimizer.lr": 1e-3}}},
            "when.optimizer.lr: loguniform has no values that come up again",
        ),
        (
            {"optimizer.name": NAMES | {"when": {"train.accumulate": 1}},
             "train.accumulate": {"choice": [1, 2], "when": {"optimizer.name": "sgd"}}},
            "the conditions go round in a circle",
        ),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be(space: dict[str, Any], message: str) -> None:
    assert message in refusal(sweep(space))


def test_a_space_with_conditions_may_be_written_nested() -> None:
    given = sweep({"optimizer": {"name": NAMES, "momentum": MOMENTUM}})
    check_experiment(given, sweep=True)
    assert given.tune is not None
    assert given.tune.space["optimizer.momentum"].when == {"optimizer.name": "sgd"}


def test_a_conditional_key_is_checked_beside_what_it_asks_for() -> None:
    space = {
        "train.epochs": {"choice": [2, 8]},
        "schedule.warmup_epochs": {"uniform": [0, 2], "when": {"train.epochs": 8}},
    }
    check_experiment(sweep(space), sweep=True)
    space["schedule.warmup_epochs"] = {"uniform": [0, 2], "when": {"train.epochs": 2}}
    assert "in a trial with train.epochs=2, schedule.warmup_epochs=2.0" in refusal(sweep(space))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune.search": "tpee"}, "tune.search: 'tpee' is not known. Did you mean 'tpe'?"),
        ({"tune.search": "cmaes"}, "cmaes cannot search keys with `when`"),
        ({"tune.objectives": {"val/accuracy": "max"}}, "tune.objectives.val/accuracy: is tune.metric already"),
        ({"tune.points": [{"optimizer.name": "adam"}]}, "tune.points.0.optimizer.name: given 'adam'; allowed:"),
        (
            {"tune.points": [{}, {"optimizer.nam": "sgd"}]},
            "tune.points.1.optimizer.nam: unknown key. Did you mean 'optimizer.name'?",
        ),
        (
            {"tune.points": [{"optimizer.name": "adamw", "optimizer.momentum": 0.5}]},
            "tune.points.0.optimizer.momentum: does not count beside the other values",
        ),
    ],
)
def test_a_search_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(sweep(BOTH, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune.objectives": {"images_per_s": "max"}}, "tune.search cmaes knows one objective"),
        ({}, "cmaes needs two keys that are numbers"),
    ],
)
def test_what_cmaes_cannot_search(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(sweep({"optimizer.lr": LR}, {"tune.search": "cmaes", **changes}))


def test_a_grid_over_steps_is_possible() -> None:
    check_experiment(sweep({"optimizer.lr": {"quniform": [0.1, 0.5, 0.1]}}, {"tune.search": "grid"}), sweep=True)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (
            {"train.epochs": {"choice": [2, 8]}, "schedule.warmup_epochs": {"uniform": [0, 2]}},
            {},
            "in a trial with train.epochs=2, schedule.warmup_epochs=2.0: schedule.warmup_epochs: 2 must be below",
        ),
        (
            {"train.batch_size": {"choice": [2, 8]}},
            {"train.accumulate": 2 + 2},
            "in a trial with train.batch_size=2: train.batch_size: 2 is the global batch",
        ),
        (
            {"train.epochs": {"randint": [2, 8]}},
            {"tune.grace_epochs": 3},
            "in a trial with train.epochs=2: tune.grace_epochs: 3 is more than train.epochs, which is 2",
        ),
        ({"optimizer.lr": LR}, {"tune.grace_epochs": 11}, "tune.grace_epochs: 11 is more than train.epochs"),
    ],
)
def test_a_trial_that_the_ranges_allow_but_that_cannot_be(
    space: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(sweep(space, changes))


def test_two_ranges_that_fit_each_other_are_possible_whatever_stands_beside_them() -> None:
    space = {"train.batch_size": {"choice": [64, 128]}, "train.accumulate": {"choice": [1, 8]}}
    check_experiment(sweep(space, {"train": {"batch_size": 4}}), sweep=True)


def test_a_metric_that_the_task_does_not_report() -> None:
    given = sweep({"optimizer.lr": LR}, {"tune.metric": "val/acuracy"})
    names = Classification(CLASSES, given.train).metric_names()
    with pytest.raises(
        ConfigError, match=r"'val/acuracy' is not known. Did you mean 'val/accuracy'\? Allowed: train/acc"
    ):
        check_metric(given, names)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (["HorizontalFlp"], "'HorizontalFlp' is not known. Did you mean 'HorizontalFlip'"),
        ([{"Affine": {"rotat": [-5, 5]}}], "'rotat' is not known. Did you mean 'rotate'"),
    ],
)
def test_an_unknown_transform_or_argument(augment: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_augment(experiment({"data.augment": augment}), channels=1)
    assert message in str(caught.value)


def test_a_swept_augmentation_is_checked_too() -> None:
    given = sweep(
        {"data.augment.0.Affine.rotate": {"choice": [[-5, 5], "far"]}},
        {"data.augment": [{"Affine": {"rotate": [-1, 1]}}]},
    )
    check_experiment(given)
    with pytest.raises(ConfigError, match=r"data\.augment\[0\]\.Affine\.rotate"):
        check_augment(given, channels=1)


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        (
            {"model.name": {"choice": ["reference/small-cnn", "reference/big"]}},
            ConfigError,
            "'reference/big' is not known",
        ),
        ({"model.args.widht": {"choice": [8]}}, ConfigError, "'widht' is not known. Did you mean 'width'"),
        (
            {"data.image_size": {"randint": [4, 16]}},
            ModelError,
            "data.image_size: 4 is too small for reference/small-cnn",
        ),
    ],
)
def test_every_model_of_a_sweep_is_tried(
    space: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    given = sweep(space)
    check_experiment(given)
    with pytest.raises(error) as caught:
        check_task_and_model(given, tmp_path, CLASSES, channels=1)
    assert message in str(caught.value)


def test_an_argument_of_one_model_is_tried_with_that_model(tmp_path: Path) -> None:
    make_project(tmp_path)
    space = {
        "model.name": {"choice": ["task.py:plain", "reference/small-cnn"]},
        "model.args.wait_s": {"choice": [0.0], "when": {"model.name": "task.py:plain"}},
    }
    check_task_and_model(sweep(space), tmp_path, CLASSES, channels=1)


def test_a_model_that_fits_passes(tmp_path: Path) -> None:
    make_project(tmp_path)
    space = {"model.name": {"choice": ["reference/small-cnn", "task.py:plain"]}, "model.args.width": {"choice": [4, 8]}}
    check_task_and_model(sweep(space), tmp_path, CLASSES, channels=1)


def test_what_a_resumed_run_may_not_change_is_listed_with_both_values() -> None:
    before = experiment().model_dump(mode="json")
    after = experiment({"optimizer.lr": 0.5, "data.validation.folds": 3, "train.epochs": 99, "tune.space": {"a.b": LR}})
    with pytest.raises(CheckpointError) as caught:
        check_resumed(after, before)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  data.validation.folds: was None, is 3", "  optimizer.lr: was 0.001, is 0.5"]

"""What one key of the experiment alone cannot tell: combinations that are impossible, told before anything starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneyard.trainers.config.domains import with_parents
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import with_overrides
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.config.sweep_checks import condition_problems, search_problems
from tuneyard.trainers.config.training import DeepSpeedConfig
from tuneyard.trainers.errors import CheckpointError, ConfigError, choose_from

MAY_CHANGE_ON_RESUME = (
    "tune", "checkpoint", "tracking", "resources", "train.epochs", "model.pretrained", "data.cache_dir",
    "data.cache_gb", "data.download", "data.s3", "train.strategy", "train.deepspeed", "train.accumulate",
    "train.on_out_of_memory",
)  # fmt: skip
LEAST_FAVOURABLE: dict[str, Callable[[list[Any]], Any]] = {
    "train.batch_size": min, "train.accumulate": max, "train.epochs": min, "schedule.warmup_epochs": max,
}  # fmt: skip
MAY_CHANGE_MIDWAY = (
    "optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "optimizer.betas", "train.label_smoothing",
    "train.clip_norm", "data.augment",
)  # fmt: skip
FEWEST_MEMBERS = 4
FIXED_IN_A_SWEEP = ("name", "task", "data.source", "tune", "checkpoint", "tracking", "resources")


def check_experiment(experiment: Experiment, *, workers: int = 1, sweep: bool = False) -> None:
    """Raise ConfigError that lists every impossible combination found. Looks at nothing outside the experiment."""
    problems = _training(experiment, workers)
    if experiment.tune and not problems:
        problems = _sweep(experiment, experiment.tune)
    if sweep and experiment.tune is None:
        problems.append("tune: missing; a sweep needs at least tune.space, the values to try.")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{experiment.name} asks for what cannot be:\n{lines}")


def check_augment(experiment: Experiment, channels: int) -> None:
    """Raise ConfigError where the transforms do not exist, do not take these arguments, or do not fit the images."""
    for variant in [experiment, *_one_by_one(experiment, "data.augment"), *_one_by_one(experiment, "data.image_size")]:
        if variant.data.augment:
            from tuneyard.trainers.data.augment import check_pipeline  # importing albumentations takes most of a second

            check_pipeline(variant.data.augment, variant.data.image_size, channels)


def check_metric(experiment: Experiment, metric_names: Sequence[str]) -> None:
    """Raise ConfigError where the sweep's metric is not one that the task reports."""
    if experiment.tune and experiment.tune.metric not in metric_names:
        raise ConfigError(choose_from(f"tune.metric (task {experiment.task})", experiment.tune.metric, metric_names))


def check_task_and_model(experiment: Experiment, project_dir: Path, classes: Sequence[str], channels: int) -> None:
    """Raise ConfigError or ModelError unless the task, its metric and every model of the sweep fit the data."""
    from tuneyard.trainers.models import build_model  # imports torch
    from tuneyard.trainers.tasks import task_class

    task = task_class(experiment.task, project_dir)(classes, experiment.train)
    check_metric(experiment, task.metric_names())
    for variant in model_variants(experiment):
        # Weights are fetched by the run itself: here the question is only whether the network fits the images.
        model = variant.model.model_copy(update={"pretrained": False})
        build_model(
            model, channels=channels, classes=task.outputs, image_size=variant.data.image_size, project_dir=project_dir
        )


def check_resumed(experiment: Experiment, before: Mapping[str, Any], *, new_values: bool = False) -> None:
    """Raise CheckpointError where a run is to go on with another experiment than it began with.

    new_values: what population-based training changes in the middle of a training may differ.

    A checkpoint brings its own learning rate and its place in the order of the samples, so that most changes would be
    ignored without a word, and some would mix two trainings.
    """
    allowed = MAY_CHANGE_ON_RESUME + (MAY_CHANGE_MIDWAY if new_values else ())
    changed = [
        f"  {path}: was {old!r}, is {new!r}"
        for path, old, new in _differences(before, experiment.model_dump(mode="json"), "")
        if not any(path == free or path.startswith(f"{free}.") for free in allowed)
    ]
    if changed:
        raise CheckpointError(
            f"{experiment.name} is not what this run began with:\n"
            + "\n".join(changed)
            + "\nResume with the values as they were, or leave --resume out to start a new run."
        )


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield path, before, after


def model_variants(experiment: Experiment) -> list[Experiment]:
    """The experiment with each model and image size that the sweep may choose, and the ends of each model argument."""
    variants = [experiment]
    for key in ("model.name", "data.image_size"):
        variants = [found for variant in variants for found in _one_by_one(variant, key) or [variant]]
    return variants + [found for variant in variants for found in _one_by_one(variant, "model.args")]


def _one_by_one(experiment: Experiment, prefix: str) -> list[Experiment]:
    """The experiment with each end value of each searched key at or below `prefix`, one key at a time."""
    keys = [key for key in (experiment.tune.space if experiment.tune else {}) if f"{key}.".startswith(f"{prefix}.")]
    return [
        with_overrides(experiment, _with_parents(experiment.tune, {key: value}))
        for key in keys
        for value in _sample_values(experiment.tune, key)
    ]


def _training(experiment: Experiment, workers: int) -> list[str]:
    train, schedule, data = experiment.train, experiment.schedule, experiment.data
    problems = []
    if train.batch_size < workers * train.accumulate:
        problems.append(
            f"train.batch_size: {train.batch_size} is the global batch, and cannot be shared by {workers} worker(s) "
            f"times train.accumulate {train.accumulate}; give at least {workers * train.accumulate}."
        )
    if train.strategy == "ddp" and train.deepspeed != DeepSpeedConfig():
        problems.append(
            "train.deepspeed: given, but train.strategy is ddp, which goes without DeepSpeed; allowed with zero1, "
            "zero2 and zero3. Change the strategy, or leave train.deepspeed out."
        )
    elif train.deepspeed.offload == "all" and train.strategy != "zero3":
        problems.append(
            f"train.deepspeed.offload: all moves the parameters too, which only zero3 can, and train.strategy is "
            f"{train.strategy}; give offload: optimizer, or strategy: zero3."
        )
    if train.ema_epochs is not None and train.strategy == "zero3":
        problems.append(
            "train.ema_epochs: under zero3 no worker has whole weights to average. Use zero2, ddp, or leave it out."
        )
    if schedule.warmup_epochs >= train.epochs:
        problems.append(
            f"schedule.warmup_epochs: {schedule.warmup_epochs:g} must be below train.epochs, which is {train.epochs}."
        )
    if data.normalize != "auto" and data.channels != "auto" and len(data.normalize.mean) != data.channels:
        problems.append(
            f"data.normalize: {len(data.normalize.mean)} channels given, but data.channels is {data.channels}."
        )
    if data.channels != "auto" and data.channels < 1:
        problems.append(f"data.channels: given {data.channels}; allowed: auto, or a whole number from 1.")
    return problems


def _sweep(experiment: Experiment, tune: TuneConfig) -> list[str]:
    problems = search_problems(tune)
    if condition_problems(tune.space):
        return problems
    for key in tune.space:
        if any(f"{key}.".startswith(f"{fixed}.") or f"{fixed}.".startswith(f"{key}.") for fixed in FIXED_IN_A_SWEEP):
            problems.append(f"tune.space.{key}: this key is the same for a whole sweep and cannot be searched.")
            continue
        try:
            for value in _sample_values(tune, key):
                with_overrides(experiment, _with_parents(tune, {key: value}))
        except ConfigError as error:
            problems.append(f"tune.space.{key}: " + str(error).split("\n", 1)[-1].strip())
    problems += _population(experiment, tune)
    return problems or _worst_trial(experiment, tune)


def _population(experiment: Experiment, tune: TuneConfig) -> list[str]:
    """What population-based training cannot do."""
    if tune.scheduler not in ("pbt", "pb2"):
        return []
    problems = [
        f"tune.space.{key}: tune.scheduler {tune.scheduler} changes values in the middle of a training, and this one "
        f"cannot change then; allowed: {', '.join(MAY_CHANGE_MIDWAY)}. Or give scheduler: asha."
        for key in tune.space
        if not any(f"{key}.".startswith(f"{allowed}.") for allowed in MAY_CHANGE_MIDWAY)
    ]
    if tune.perturb_epochs >= experiment.train.epochs:
        problems.append(
            f"tune.perturb_epochs: {tune.perturb_epochs} leaves no comparison before the end, which is at epoch "
            f"{experiment.train.epochs}; give less."
        )
    if experiment.data.validation.every_fold:
        problems.append(
            f"data.validation.folds: members of a population copy each other ({tune.scheduler}), and "
            "one fold's state must not reach another; give data.validation.fold, or scheduler: asha."
        )
    if tune.trials < FEWEST_MEMBERS:
        problems.append(
            f"tune.trials: {tune.trials} members are too few to copy the best of; tune.scheduler {tune.scheduler} "
            f"needs at least {FEWEST_MEMBERS}."
        )
    return problems


def _worst_trial(experiment: Experiment, tune: TuneConfig) -> list[str]:
    """What is impossible in the trial that draws the least favourable ends of all its ranges at once."""
    found = [_impossible(experiment, tune, drawn) for drawn in _worst_draws(tune)]
    return next((problems for problems in found if problems), [])


def _worst_draws(tune: TuneConfig) -> list[dict[str, Any]]:
    """The worst of the keys that always count; then the same beside each conditional key and what it asks for."""
    worst = {key: pick(_sample_values(tune, key)) for key, pick in LEAST_FAVOURABLE.items() if key in tune.space}
    always = {key: value for key, value in worst.items() if not tune.space[key].when}
    return [always] + [always | _with_parents(tune, {key: worst[key]}) for key in worst if tune.space[key].when]


def _impossible(experiment: Experiment, tune: TuneConfig, drawn: dict[str, Any]) -> list[str]:
    worst = with_overrides(experiment, drawn)
    problems = _training(worst, workers=1) if drawn else []
    if tune.scheduler in ("asha", "hyperband", "median") and tune.grace_epochs > worst.train.epochs:
        problems.append(
            f"tune.grace_epochs: {tune.grace_epochs} is more than train.epochs, which is {worst.train.epochs}."
        )
    trial = ", ".join(f"{key}={value}" for key, value in drawn.items())
    return [f"tune.space, in a trial with {trial}: {problem}" if drawn else problem for problem in problems]


def _with_parents(tune: TuneConfig | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """These values, and what their conditions ask of other keys."""
    assert tune is not None
    return with_parents(tune.space, values) or dict(values)


def _sample_values(tune: TuneConfig | None, key: str) -> list[Any]:
    """The choices, or both ends of the range."""
    assert tune is not None
    domain = tune.space[key]
    return domain.values if domain.kind == "choice" else domain.values[:2]

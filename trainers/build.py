"""From a spec to a trainer: every real object of a run, made from plain data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.data.augment import Augmenter, make_augmenter
from tuneyard.trainers.data.batches import EvalBatches, TrainBatches
from tuneyard.trainers.engine import Engine, seed_everything
from tuneyard.trainers.loop import Trainer, Watcher
from tuneyard.trainers.models import build_model
from tuneyard.trainers.optim import build_optimizer, build_schedule
from tuneyard.trainers.predictions import keeps_predictions
from tuneyard.trainers.session import LoadedData, Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tasks import task_class


def build_trainer(
    spec: TrialSpec, session: Session, data: LoadedData, engine: Engine, watcher: Watcher,
    should_stop: Callable[[], bool],
) -> Trainer:  # fmt: skip
    """A trainer at the beginning of its run. Raises ConfigError or ModelError where the parts do not fit."""
    experiment, config, project_dir = spec.experiment, spec.experiment.train, Path(spec.project_dir)
    task = task_class(experiment.task, project_dir)(data.classes, config)
    seed_everything(config.seed)
    model = build_model(
        experiment.model, channels=data.channels, classes=task.outputs, image_size=experiment.data.image_size,
        project_dir=project_dir,
    )  # fmt: skip
    # Dropout differs between workers; the weights, made before, do not.
    seed_everything(config.seed, engine.rank)
    optimizer = build_optimizer(experiment.optimizer, engine.place(model))
    augmenter = make_augmenter(experiment.data.augment, config.seed, data.pool.images.shape[1:])
    # Whole batches are made faster than any of these networks trains; what goes image by image needs help.
    processes = session.loader_processes if isinstance(augmenter, Augmenter) else 0
    train = TrainBatches(
        data.pool, data.split.train, batch_size=config.batch_size, rank=engine.rank, world_size=engine.world_size,
        seed=config.seed, augmenter=augmenter, processes=processes,
        ahead=engine.device.type == "cuda", pin_memory=engine.device.type == "cuda",
    )  # fmt: skip
    validation = EvalBatches(data.pool, data.split.validation, config.batch_size, engine.rank, engine.world_size)
    prepared, wrapped = engine.prepare(model, optimizer)
    schedule = build_schedule(
        experiment.schedule, optimizer, lr=experiment.optimizer.lr, epochs=config.epochs,
        steps_per_epoch=train.steps_per_epoch,
    )  # fmt: skip
    return Trainer(
        config=config, engine=engine, task=task, model=prepared, optimizer=wrapped, schedule=schedule, train=train,
        validation=validation, normalization=data.normalization, should_stop=should_stop, watcher=watcher,
        keep_probabilities=keeps_predictions(experiment.data.validation),
    )  # fmt: skip


def count_parameters(trainer: Trainer) -> int:
    """Parameters of the model, trainable or not."""
    # Of a parameter that zero3 has shared out nothing is left but what DeepSpeed notes of it.
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trainer.model.parameters())


def test_metrics(trainer: Trainer, data: LoadedData, checkpoints: Checkpoints, step: int) -> dict[str, float]:
    """`test/` metrics of the model saved at `step`; the data must have a test set. All workers must call it."""
    assert data.test is not None, "asked only where there is a test set"
    engine = trainer.engine
    trainer.load_judged(checkpoints.load_parts((trainer.judged_part,), step=step)[trainer.judged_part])
    indices = np.arange(len(data.test.labels))
    batches = EvalBatches(data.test, indices, trainer.config.batch_size, engine.rank, engine.world_size)
    return {name.replace("val/", "test/", 1): value for name, value in trainer.evaluate(batches).metrics.items()}

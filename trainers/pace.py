"""How quickly a configuration trains here: a few dozen real steps and some validation, extrapolated to an epoch."""

import gc
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tuneyard.trainers.build import build_trainer, count_parameters
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.data.batches import EvalBatches
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import ConfigError, DivergedError, InterruptedRunError
from tuneyard.trainers.loop import Trainer
from tuneyard.trainers.session import LoadedData, Session
from tuneyard.trainers.spec import TrialSpec

WARM_UP_STEPS = 5
BLOCKS = 3
VALIDATION_BATCHES = 8
LOADER_START_S = 60.0


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """What was measured.

    Attributes:
        epoch_s: seconds of an epoch with its validation, by each block of steps that was timed.
        build_s: seconds to make the model, the optimizer and the rest.
        images_per_s: training images, over all workers.
    """

    epoch_s: tuple[float, ...]
    build_s: float
    parameters: int
    images_per_s: float


class OutOfMemoryHereError(ConfigError):
    """The configuration does not fit into this machine's memory."""


def measure_pace(spec: TrialSpec, session: Session, *, steps: int, workers: int = 1) -> MeasuredPace:
    """Train `steps` steps of the spec's experiment in this process, beside a few to warm up. Nothing is kept.

    Of several workers this process does one's share; what they wait for each other is not in it.
    Raises ConfigError, ModelError or DataError where the configuration cannot be trained.
    """
    experiment = spec.experiment
    data = session.data(experiment.data, Path(spec.project_dir))
    session.begin_run()
    began = time.perf_counter()
    shared = spec.model_copy(update={"experiment": _one_share(experiment, workers)})
    engine = Engine(shared.experiment.train, cpu=session.cpu)
    watch = Stopwatch(steps, engine.device)
    trainer: Trainer | None = None
    try:
        trainer = build_trainer(shared, session, data, engine, watch, lambda: watch.enough)
        build_s = time.perf_counter() - began
        return _measured(trainer, data, watch, workers, build_s)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryHereError(f"out of memory: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryHereError(f"out of memory: {error}") from error
    finally:
        if trainer is not None:
            trainer.train.close()
        engine.close()
        del trainer
        gc.collect()
        if engine.device.type == "cuda":
            torch.cuda.empty_cache()


class Stopwatch:
    """A watcher that times blocks of steps, without the validations between them.

    seconds_per_step: one for each block. enough: the steps are done. The device is waited for at the ends of blocks
    and epochs only, so that between them it works on while the next batch is made.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.seconds_per_step: list[float] = []
        self._steps, self._block, self._device = steps, max(math.ceil(steps / BLOCKS), 1), device
        self._done = -WARM_UP_STEPS
        self._left_in_epoch = 0
        self._in_block, self._elapsed, self._mark = 0, 0.0, 0.0

    @property
    def enough(self) -> bool:
        """Is everything timed?"""
        return self._done >= self._steps

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """From here on it counts."""
        self._left_in_epoch = steps - start
        self._mark = self._now()

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        """One more."""
        self._done += 1
        self._left_in_epoch -= 1
        if self._done <= 0:
            if self._done == 0:
                self._mark = self._now()
            return
        self._in_block += 1
        if self._in_block == self._block or self._left_in_epoch == 0 or self.enough:
            now = self._now()
            self._elapsed, self._mark = self._elapsed + now - self._mark, now
        if self._in_block == self._block or self.enough:
            self.seconds_per_step.append(self._elapsed / self._in_block)
            self._in_block, self._elapsed = 0, 0.0

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """Nothing: the validation is timed on its own."""

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _one_share(experiment: Experiment, workers: int) -> Experiment:
    """One worker's share of each batch, and as many epochs as small data need for the steps."""
    train = experiment.train
    update = {"batch_size": max(train.batch_size // workers, 1), "epochs": max(train.epochs, 10_000)}
    return experiment.model_copy(update={"train": train.model_copy(update=update)})


def _measured(trainer: Trainer, data: LoadedData, watch: Stopwatch, workers: int, build_s: float) -> MeasuredPace:
    trainer.train.wait_for_processes(LOADER_START_S)
    try:
        for _ in trainer.epochs():
            pass
    except InterruptedRunError:
        pass  # as the watch asked for
    except DivergedError:
        if not watch.seconds_per_step:  # numbers that are not finite are no slower
            raise
    # Shares of a batch are as many times more in an epoch as there are workers to do them.
    steps = trainer.train.steps_per_epoch / workers
    validation_s = _validation_s(trainer, data) / workers
    fastest = min(watch.seconds_per_step)
    return MeasuredPace(
        epoch_s=tuple(step_s * steps + validation_s for step_s in watch.seconds_per_step),
        build_s=build_s,
        parameters=count_parameters(trainer),
        images_per_s=trainer.train.global_batch_size * workers / fastest,
    )


def _validation_s(trainer: Trainer, data: LoadedData) -> float:
    """Seconds to validate on the whole set with one worker, from some batches of it."""
    size, everything = trainer.config.batch_size, data.split.validation
    trainer.evaluate(EvalBatches(data.pool, everything[:size], size))
    some = everything[: size * VALIDATION_BATCHES]
    began = time.perf_counter()
    trainer.evaluate(EvalBatches(data.pool, some, size))
    return (time.perf_counter() - began) * len(everything) / max(len(some), 1)

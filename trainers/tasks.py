"""A task owns its loss, its metrics and what a target means. Here: the port, and how a name becomes a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.errors import ConfigError, choose_from
from tuneyard.trainers.names import is_user_reference, load_object, load_user_object
from tuneyard.trainers.record import Metric

TASKS = {"classification": "tuneyard.trainers.classification:Classification"}

Sums = dict[str, torch.Tensor]


class Task(Protocol):
    """What the loop asks of a task. Constructed as `MyTask(classes, train)`.

    Metrics are built from sums (tensors on the training device), so that they add up over batches and over workers
    without a word passed between host and device before the epoch's end.
    """

    primary: Metric
    """The metric that runs are compared by, unless the experiment says otherwise; such as `val/accuracy`, max."""

    def __init__(self, classes: Sequence[str], train: TrainConfig) -> None: ...

    @property
    def outputs(self) -> int:
        """How many outputs the model must have."""
        ...

    def metric_names(self) -> Sequence[str]:
        """Every metric that the task reports, with its `train/` or `val/`."""
        ...

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The training loss, averaged over the batch: outputs [B, outputs], labels [B] -> scalar."""
        ...

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The validation loss of each sample: outputs [B, outputs], labels [B] -> [B]."""
        ...

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """The prediction of each sample: outputs [B, outputs] -> [B]."""
        ...

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """What `data.validation.predictions` keeps of each sample: [B, outputs] -> float32 [B, classes]."""
        ...

    def empty(self, device: torch.device) -> Sums:
        """Sums before any sample."""
        ...

    def add_training(self, sums: Sums, outputs: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Count a training batch: only what is cheap enough for every step."""
        ...

    def add_validation(self, sums: Sums, outputs: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Count a validation batch."""
        ...

    def summarize_training(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """The `train/` metrics of an epoch."""
        ...

    def summarize_validation(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """The `val/` metrics of an epoch; of the test set, where the sums are of that."""
        ...


def task_class(name: str, project_dir: Path) -> type[Task]:
    """The class that `task:` names; ConfigError where there is none."""
    if is_user_reference(name):
        found = load_user_object(project_dir, name)
        missing = [needed for needed in _METHODS if not hasattr(found, needed)]
        if missing:
            raise ConfigError(
                f"task: {name} lacks {', '.join(missing)}. Derive it from "
                "tuneyard.trainers.classification:Classification, or give it all that tuneyard.trainers.tasks:Task has."
            )
    elif name in TASKS:
        found = load_object(TASKS[name])
    else:
        raise ConfigError(choose_from("task", name, [*TASKS, "task.py:MyTask"]))
    task: type[Task] = found
    return task


_METHODS = ("primary", *(name for name in vars(Task) if not name.startswith("_")))

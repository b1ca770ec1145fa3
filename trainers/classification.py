"""Single-label classification: cross-entropy, accuracy, top-k accuracy, macro F1 and the confusion matrix."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.record import Metric
from tuneyard.trainers.tasks import Sums


class Classification:
    """One class per image.

    Top-k is top-5 where there are more than five classes, and top-2 for three to five; with two it says nothing and is
    left out. Macro F1 is the mean of the classes' F1 scores, over the classes that occur among labels or predictions.
    Label smoothing (Szegedy et al., arXiv 1512.00567) changes the training loss only, so that validation losses of
    runs with different smoothing compare.
    """

    primary = Metric(name="val/accuracy", mode="max")

    def __init__(self, classes: Sequence[str], train: TrainConfig) -> None:
        self.classes = tuple(classes)
        self.smoothing = train.label_smoothing
        self.k = 5 if len(classes) > 5 else 2

    @property
    def outputs(self) -> int:
        """One logit per class."""
        return len(self.classes)

    def metric_names(self) -> Sequence[str]:
        """Metrics of every epoch."""
        names = ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1"]
        return [*names, f"val/top{self.k}"] if len(self.classes) > 2 else names

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Smoothed cross-entropy, averaged: [B, classes], [B] -> scalar."""
        return functional.cross_entropy(outputs, labels, label_smoothing=self.smoothing)

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each sample: [B, classes], [B] -> [B]."""
        return functional.cross_entropy(outputs, labels, reduction="none")

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """The class with the largest logit: [B, classes] -> [B]."""
        return outputs.argmax(dim=1)

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """The softmax over the classes: [B, classes] -> float32 [B, classes]."""
        return outputs.float().softmax(dim=1)

    def empty(self, device: torch.device) -> Sums:
        """Zeros. `confusion` is [classes, classes], rows the true class, columns the predicted one."""
        size = len(self.classes)
        return {
            "count": torch.zeros((), dtype=torch.int64, device=device),
            "loss": torch.zeros((), dtype=torch.float64, device=device),
            "correct": torch.zeros((), dtype=torch.int64, device=device),
            "in_top_k": torch.zeros((), dtype=torch.int64, device=device),
            "confusion": torch.zeros((size, size), dtype=torch.int64, device=device),
        }

    def add_training(self, sums: Sums, outputs: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Add the batch's loss and hits."""
        sums["count"] += len(labels)
        sums["loss"] += loss.detach() * len(labels)
        sums["correct"] += (outputs.detach().argmax(dim=1) == labels).sum()

    def add_validation(self, sums: Sums, outputs: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Add the batch's losses, hits, hits among the k best, and confusions."""
        size = len(self.classes)
        predicted = self.predict(outputs)
        sums["count"] += len(labels)
        sums["loss"] += losses.double().sum()
        sums["correct"] += (predicted == labels).sum()
        if size > 2:
            top = outputs.topk(self.k, dim=1).indices
            sums["in_top_k"] += (top == labels[:, None]).any(dim=1).sum()
        sums["confusion"] += torch.bincount(labels * size + predicted, minlength=size * size).view(size, size)

    def summarize_training(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Loss and accuracy as the model went along, augmentation and dropout included."""
        count = max(int(sums["count"]), 1)
        return {"train/loss": float(sums["loss"]) / count, "train/accuracy": int(sums["correct"]) / count}

    def summarize_validation(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Loss, accuracy, macro F1 and top-k of a whole set."""
        count = max(int(sums["count"]), 1)
        metrics = {
            "val/loss": float(sums["loss"]) / count,
            "val/accuracy": int(sums["correct"]) / count,
            "val/macro_f1": macro_f1(sums["confusion"]),
        }
        if len(self.classes) > 2:
            metrics[f"val/top{self.k}"] = int(sums["in_top_k"]) / count
        return metrics


def macro_f1(confusion: torch.Tensor) -> float:
    """Mean F1 of the classes that occur: confusion int64 [C, C], rows true, columns predicted."""
    counts = confusion.double()
    hits = counts.diagonal()
    occurring = counts.sum(dim=0) + counts.sum(dim=1)
    scores = 2 * hits[occurring > 0] / occurring[occurring > 0]
    return float(scores.mean()) if len(scores) else 0.0

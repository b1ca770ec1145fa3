"""The classification task's numbers, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from tuneyard.trainers.classification import Classification, macro_f1
from tuneyard.trainers.config.training import TrainConfig

CPU = torch.device("cpu")


def task(classes: int, **train: float) -> Classification:
    return Classification([f"c{n}" for n in range(classes)], TrainConfig(**train))  # type: ignore[arg-type]


def predictions(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [count, classes] that are right more often than not, and labels."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


def validate(judge: Classification, logits: torch.Tensor, labels: torch.Tensor, parts: int = 1) -> dict[str, float]:
    sums = judge.empty(CPU)
    for some, truth in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        judge.add_validation(sums, some, truth, judge.losses(some, truth))
    return judge.summarize_validation(sums)


@pytest.mark.parametrize(("classes", "k"), [(3, 2), (5, 2), (6, 5), (10, 5)])
def test_the_metrics_are_those_of_scikit_learn(classes: int, k: int) -> None:
    logits, labels = predictions(300, classes)
    ours = validate(task(classes), logits, labels, parts=7)
    scores, truth, predicted = logits.numpy(), labels.numpy(), logits.argmax(1).numpy()
    assert ours == pytest.approx(
        {
            "val/loss": metrics.log_loss(truth, torch.softmax(logits.double(), 1).numpy(), labels=range(classes)),
            "val/accuracy": metrics.accuracy_score(truth, predicted),
            "val/macro_f1": metrics.f1_score(truth, predicted, average="macro"),
            f"val/top{k}": metrics.top_k_accuracy_score(truth, scores, k=k, labels=range(classes)),
        },
        rel=1e-6,
    )


def test_two_classes_have_no_top_k() -> None:
    logits, labels = predictions(50, 2)
    assert validate(task(2), logits, labels).keys() == {"val/loss", "val/accuracy", "val/macro_f1"}


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_names_promised_are_the_names_reported(classes: int) -> None:
    judge = task(classes)
    logits, labels = predictions(20, classes)
    sums = judge.empty(CPU)
    judge.add_training(sums, logits, labels, judge.loss(logits, labels))
    reported = judge.summarize_training(sums).keys() | validate(judge, logits, labels).keys()
    assert reported == set(judge.metric_names())
    assert judge.primary.name in reported


def test_the_confusion_matrix_has_the_true_classes_in_its_rows() -> None:
    judge = task(4)
    logits, labels = predictions(100, 4)
    sums = judge.empty(CPU)
    judge.add_validation(sums, logits, labels, judge.losses(logits, labels))
    expected = metrics.confusion_matrix(labels.numpy(), logits.argmax(1).numpy(), labels=range(4))
    assert (sums["confusion"].numpy() == expected).all()


def test_a_class_that_occurs_nowhere_does_not_count_in_macro_f1() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    confusion = torch.from_numpy(metrics.confusion_matrix(truth, predicted, labels=range(5)))
    assert macro_f1(confusion) == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))


def test_a_class_that_is_only_predicted_counts_in_macro_f1() -> None:
    truth, predicted = np.array([0, 0, 0, 0]), np.array([0, 0, 0, 2])
    confusion = torch.from_numpy(metrics.confusion_matrix(truth, predicted, labels=range(3)))
    expected = metrics.f1_score(truth, predicted, average="macro", zero_division=0.0)
    assert macro_f1(confusion) == pytest.approx(expected)


def test_label_smoothing_is_that_of_its_paper_and_for_training_alone() -> None:
    judge = task(5, label_smoothing=0.1)
    logits, labels = predictions(40, 5)
    logarithms = torch.log_softmax(logits, 1)
    targets = torch.full((40, 5), 0.1 / 5)
    targets[torch.arange(40), labels] += 0.9
    torch.testing.assert_close(judge.loss(logits, labels), -(targets * logarithms).sum(1).mean())
    torch.testing.assert_close(judge.losses(logits, labels), -logarithms[torch.arange(40), labels])


def test_training_metrics_weigh_batches_by_their_size() -> None:
    judge = task(3)
    logits, labels = predictions(30, 3)
    sums = judge.empty(CPU)
    for part in (slice(0, 25), slice(25, 30)):
        judge.add_training(sums, logits[part], labels[part], judge.loss(logits[part], labels[part]))
    row = judge.summarize_training(sums)
    assert row["train/loss"] == pytest.approx(float(judge.loss(logits, labels)))
    assert row["train/accuracy"] == pytest.approx(metrics.accuracy_score(labels.numpy(), logits.argmax(1).numpy()))

"""Each validation sample's predicted probabilities, kept beside a run's record as `predictions.npz`.

What ensembles, stacking and the search for mislabelled images need: out-of-fold predictions of every sample, from a
model that never saw it.
"""

import io
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.config.data import ValidationConfig
from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.stores.store import Store

NAME = "predictions.npz"

Array = np.ndarray[Any, np.dtype[Any]]


def keeps_predictions(validation: ValidationConfig) -> bool:
    """Does a run with this validation keep its predictions? Where asked, and for each fold of a cross-validation."""
    return validation.predictions or validation.folds is not None


@dataclass(frozen=True, slots=True)
class Predictions:
    """The probabilities of one epoch's validation, in the order of `indices`.

    Attributes:
        indices: int64 [n], positions in the pool, ascending.
        probabilities: float32 [n, classes], rows summing to 1.
        labels: int64 [n], the true classes.
        step: the optimizer step after which the model made them.
    """

    indices: Array
    probabilities: Array
    labels: Array
    step: int

    @property
    def accuracy(self) -> float:
        """Share of the samples whose likeliest class is the true one."""
        return float(np.mean(self.probabilities.argmax(axis=1) == self.labels))


def join_shares(shares: Sequence[Predictions]) -> Predictions:
    """The shares of several workers, or of several folds, as one, by position in the pool."""
    indices = np.concatenate([share.indices for share in shares])
    order = np.argsort(indices, kind="stable")
    return Predictions(
        indices=indices[order],
        probabilities=np.concatenate([share.probabilities for share in shares])[order],
        labels=np.concatenate([share.labels for share in shares])[order],
        step=max(share.step for share in shares),
    )


class PredictionsWriter:
    """Writes a run's newest predictions behind the training: each ask takes the place of one that still waits.

    With a `fence`, nothing is written once a newer attempt has begun.
    """

    def __init__(self, store: Store, prefix: str, fence: Fence | None = None) -> None:
        self._store, self._prefix, self._fence = store, prefix, fence
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predictions")
        self._lock = threading.Lock()  # guards the waiting one
        self._waiting: Predictions | None = None

    def write(self, predictions: Predictions) -> None:
        """Ask for these to be written; returns at once."""
        with self._lock:
            self._waiting = predictions
        self._thread.submit(self._write_waiting)

    def close(self) -> None:
        """Wait until all is written; raises StoreError where that fails for good, or FencedError."""
        try:
            # What could not be written before is tried once more.
            self._thread.submit(self._write_waiting).result()
        finally:
            self._thread.shutdown()

    def _write_waiting(self) -> None:
        with self._lock:
            predictions, self._waiting = self._waiting, None
        if predictions is None:
            return
        try:
            if self._fence is not None:
                self._fence.check()
            write_predictions(self._store, self._prefix, predictions)
        except StoreError:
            with self._lock:
                self._waiting = self._waiting or predictions
            raise


def write_predictions(store: Store, prefix: str, predictions: Predictions) -> None:
    """Write `predictions.npz` under `prefix`, in place of what was there."""
    store.put(
        prefix + NAME,
        to_npz(
            indices=predictions.indices.astype(np.int64),
            probabilities=predictions.probabilities.astype(np.float32),
            labels=predictions.labels.astype(np.int64),
            step=np.array(predictions.step, np.int64),
        ),
    )


def read_predictions(store: Store, prefix: str) -> Predictions:
    """The predictions under `prefix`.

    Raises MissingKeyError where the run kept none, StoreError where the file is damaged.
    """
    where = f"{store.uri}/{prefix}{NAME}"
    try:
        content = store.get(prefix + NAME)
    except MissingKeyError:
        raise MissingKeyError(
            f"There is no {where}: the run kept no predictions, or has finished no epoch. Set "
            "data.validation.predictions: true before training, or train with data.validation.folds."
        ) from None
    try:
        # Without pickle a file from anywhere is data, and can run nothing.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Predictions(arrays["indices"], arrays["probabilities"], arrays["labels"], step=int(arrays["step"]))
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{where} is damaged: {error}. Delete it, and resume or repeat its run.") from error
    count = len(found.indices)
    if found.probabilities.ndim != 2 or len(found.probabilities) != count or found.labels.shape != (count,):
        raise StoreError(
            f"{where} is damaged: {count} indices, probabilities of shape {list(found.probabilities.shape)}, "
            f"labels of shape {list(found.labels.shape)}. Delete it, and resume or repeat its run."
        )
    return found


def to_npz(**arrays: Array) -> bytes:
    """The arrays as the bytes of an uncompressed npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's types take a keyword for its `allow_pickle`
    return buffer.getvalue()

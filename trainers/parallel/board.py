"""The progress board: a few numbers of each worker in shared memory, written after every step and read by the parent.

Writing costs a fraction of a microsecond and never waits. A reader may see the numbers of one worker from two moments;
it looks at them over and over, and needs no more.
"""

import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch

from tuneyard.trainers.loop import Watcher

_FIELDS = 6
_BYTES = 8


class Phase(IntEnum):
    """What a worker is at. Between two steps of one epoch it is stepping."""

    STARTING = 0
    """Joining the others, reading data and a checkpoint, up to the first step."""
    STEPPING = 1
    BETWEEN = 2
    """After an epoch's last step: validation, and the copy for a checkpoint."""
    ENDING = 3
    """After the last epoch: the last upload, which may take any time, and the test set."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands.

    Attributes:
        attempt: the attempt that these numbers are of; 0 before the first.
        origin: the step, over the whole run, that this attempt began after; -1 until that is known.
        step: the last step that was done.
        first_step_ns: when this attempt's first step was done, by CLOCK_MONOTONIC; 0 before.
        beats: grows with every sign of life.
    """

    attempt: int
    phase: Phase
    origin: int
    step: int
    first_step_ns: int
    beats: int


class Board:
    """The numbers of `workers` workers in the file at `path`, which is made where it is not there."""

    def __init__(self, path: Path, workers: int) -> None:
        size = workers * _FIELDS * _BYTES
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._numbers = memoryview(self._map).cast("q")
        self.path, self.workers = path, workers

    def read(self, rank: int) -> Place:
        """The place of one worker."""
        attempt, phase, *rest = self._numbers[rank * _FIELDS : (rank + 1) * _FIELDS].tolist()
        return Place(attempt, Phase(phase), *rest)

    def read_all(self) -> list[Place]:
        """The places of all workers, by rank."""
        return [self.read(rank) for rank in range(self.workers)]

    def write(self, rank: int, place: Place) -> None:
        """Set one worker's numbers."""
        values = (place.attempt, place.phase, place.origin, place.step, place.first_step_ns, place.beats)
        for number, value in enumerate(values, start=rank * _FIELDS):
            self._numbers[number] = value

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self._numbers.release()
        self._map.close()


class Beating:
    """A watcher in front of another: notes on the board how far one attempt of this worker has come."""

    def __init__(self, watcher: Watcher, board: Board, rank: int, attempt: int, epochs: int) -> None:
        self._watcher, self._board, self._rank, self._epochs = watcher, board, rank, epochs
        self._attempt, self._phase = attempt, Phase.STARTING
        self._origin, self._step, self._epoch_end = -1, 0, 0
        self._first_step_ns = self._beats = 0
        self._note()

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """The first one tells where this attempt began."""
        self._step, self._epoch_end = epoch * steps + start, (epoch + 1) * steps
        if self._origin < 0:
            self._origin = self._step
        self._note()
        self._watcher.epoch_begins(epoch, steps, start)

    def step_done(self, images: int, loss: torch.Tensor) -> None:
        """A step."""
        self._step += 1
        self._first_step_ns = self._first_step_ns or time.monotonic_ns()
        self._phase = Phase.STEPPING if self._step < self._epoch_end else Phase.BETWEEN
        self._note()
        self._watcher.step_done(images, loss)

    def epoch_ended(self, metrics: Mapping[str, float]) -> None:
        """After the last epoch nothing is left that has a pace."""
        self._phase = Phase.ENDING if metrics["epoch"] >= self._epochs else Phase.BETWEEN
        self._note()
        self._watcher.epoch_ended(metrics)

    def _note(self) -> None:
        self._beats += 1
        place = Place(self._attempt, self._phase, self._origin, self._step, self._first_step_ns, self._beats)
        self._board.write(self._rank, place)

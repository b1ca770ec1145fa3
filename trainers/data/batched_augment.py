"""The commonest transforms for small images, on whole batches: flips, pad and random crop, rectangles dropped.

albumentations takes about 100 µs for each image, whatever its size; here a small image takes 3. What is drawn is
distributed as albumentations draws it (2.0.8), which a test compares. Randomness comes from hashes of (seed, epoch,
sample, number of the draw), so an image depends neither on its batch nor on the process that makes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# Up to this many bytes an image costs less as one of many in a NumPy call than in a call of its own.
_SMALL_BYTES = 4096
# Padded copies are made of so much at a time, which stays in the processor's cache.
_CANVAS_BYTES = 2**20


class Step(Protocol):
    """One transform of a whole batch."""

    @property
    def draws(self) -> int:
        """Random numbers that it takes for each image."""

    def apply(self, batch: Array, uniform: Array) -> None:
        """Change `batch`, uint8 [b, H, W, C], in place. uniform: float64 [draws, b], from 0 to below 1."""


class BatchedAugmenter:
    """The steps, in order, with draws that are a function of (seed, epoch, sample index) alone."""

    def __init__(self, steps: Sequence[Step], seed: int) -> None:
        self._steps = tuple(steps)
        self._seed = seed

    def make(self, images: Array, epoch: int, indices: Array, out: Array) -> None:
        """Write the augmented images at these positions of the pool, uint8 [n, H, W, C], into `out` [b, H, W, C]."""
        np.take(images, indices, axis=0, out=out, mode="clip")
        uniform = uniform_draws(self._seed, epoch, indices, sum(step.draws for step in self._steps))
        first = 0
        for step in self._steps:
            step.apply(out, uniform[first : first + step.draws])
            first += step.draws


def uniform_draws(seed: int, epoch: int, indices: Array, count: int) -> Array:
    """float64 [count, b], from 0 to below 1: for each sample the outputs of a SplitMix64 generator of its own.

    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014; states are hashed, not added.
    """
    key = _mix(np.array([seed], dtype=np.uint64) + _GAMMA)
    key = _mix(key + np.array([epoch], dtype=np.uint64) * _GAMMA)
    states = _mix(key + indices.astype(np.uint64) * _GAMMA)
    numbers = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    words = _mix(states[np.newaxis, :] + numbers[:, np.newaxis])
    # 53 bits, as many as a float64 has.
    uniform: Array = (words >> np.uint64(11)) * 2.0**-53
    return uniform


def _mix(words: Array) -> Array:
    """Stafford's variant 13 of MurmurHash3's finalizer, which SplitMix64 uses."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = words ^ (words >> np.uint64(31))
    return mixed


def _whole(uniform: Array, low: Array | int, end: Array | int) -> Array:
    """int64: whole numbers from `low` to below `end`, each as likely as the others."""
    return low + (uniform * (end - low)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror an image: its columns (HorizontalFlip), or its rows (VerticalFlip)."""

    columns: bool
    p: float
    draws: int = 1

    def apply(self, batch: Array, uniform: Array) -> None:
        chosen = np.nonzero(uniform[0] < self.p)[0]
        if batch.shape[3] == 1 and batch[0].size <= _SMALL_BYTES:
            mirrored = batch[chosen]
            batch[chosen] = mirrored[:, :, ::-1] if self.columns else mirrored[:, ::-1]
            return
        code = 1 if self.columns else 0
        for image in map(batch.__getitem__, chosen.tolist()):
            cv2.flip(image, code, dst=image)


@dataclass(frozen=True, slots=True)
class PadCrop:
    """Pad or PadIfNeeded, and a RandomCrop back to the image's size.

    pads: pixels added at the top, bottom, left and right. fill: uint8 [C] for a constant border, else None and `mode`,
    OpenCV's number of the border. random_place: the padding is shared out between the two sides by a draw.
    """

    pads: tuple[int, int, int, int]
    fill: Array | None
    mode: int
    random_place: bool
    p: float
    draws: int = 5

    def apply(self, batch: Array, uniform: Array) -> None:
        top, bottom, left, right = self.pads
        rows = self._starts(uniform[1], uniform[3], top + bottom)
        columns = self._starts(uniform[2], uniform[4], left + right)
        if self.random_place:
            # Wherever the image was put, so much surrounds it that every crop lies within.
            top = bottom = top + bottom
            left = right = left + right
        padded = uniform[0] < self.p
        rows, columns = np.where(padded, rows, top), np.where(padded, columns, left)
        height, width, channels = batch.shape[1:]
        shape = (height + top + bottom, width + left + right, channels)
        # Of a constant border only the inside changes from chunk to chunk.
        canvas = np.empty((min(len(batch), max(1, _CANVAS_BYTES // math.prod(shape))), *shape), dtype=np.uint8)
        if self.fill is not None:
            # By rows: NumPy copies runs of a pixel's few bytes slowly.
            canvas[:] = np.tile(self.fill, (shape[1], 1))
        for start in range(0, len(batch), len(canvas)):
            part = slice(start, start + len(canvas))
            images = batch[part]
            if self.fill is None:
                larger = self._extended(images, (top, bottom, left, right))
            else:
                larger = canvas[: len(images)]
                larger[:, top : top + height, left : left + width] = images
            _crop(larger, rows[part], columns[part], images)

    def _starts(self, crop: Array, place: Array, pad: int) -> Array:
        """Where the crop begins, in the padded image."""
        start = _whole(crop, 0, pad + 1)
        return start + pad - _whole(place, 0, pad + 1) if self.random_place else start

    def _extended(self, batch: Array, pads: tuple[int, int, int, int]) -> Array:
        """The images with a border made of their own pixels."""
        top, bottom, left, right = pads
        height, width = batch.shape[1:3]
        rows = [cv2.borderInterpolate(row, height, self.mode) for row in range(-top, height + bottom)]
        columns = [cv2.borderInterpolate(column, width, self.mode) for column in range(-left, width + right)]
        return batch.take(rows, axis=1).take(columns, axis=2)


def _crop(canvas: Array, rows: Array, columns: Array, out: Array) -> None:
    """Cut `out`, [b, H, W, C], from the larger images in `canvas`, at these rows and columns."""
    height, width = out.shape[1:3]
    if out[0].size <= _SMALL_BYTES:
        windows = np.lib.stride_tricks.sliding_window_view(canvas, (height, width), axis=(1, 2))
        out[:] = windows.transpose(0, 1, 2, 4, 5, 3)[np.arange(len(out)), rows, columns]
        return
    for image, larger, row, column in zip(out, canvas, rows.tolist(), columns.tolist(), strict=True):
        image[:] = larger[row : row + height, column : column + width]


@dataclass(frozen=True, slots=True)
class Dropout:
    """CoarseDropout: some rectangles of one colour.

    holes: the least and the largest number of them. heights, widths: ranges of their sides, in pixels with the end
    excluded, or, where `relative`, shares of the image's side, rounded down. fill: uint8 [] or [C].
    """

    holes: tuple[int, int]
    heights: tuple[float, float]
    widths: tuple[float, float]
    relative: bool
    fill: Array
    p: float

    @property
    def draws(self) -> int:
        """One whether, one how many, four for each rectangle."""
        return 2 + 4 * self.holes[1]

    def apply(self, batch: Array, uniform: Array) -> None:
        height, width = batch.shape[1:3]
        chosen = np.nonzero(uniform[0] < self.p)[0]
        counts = _whole(uniform[1, chosen], self.holes[0], self.holes[1] + 1)
        most, places = self.holes[1], uniform[2:, chosen]
        tall = self._sides(places[:most], self.heights, height)
        wide = self._sides(places[most : 2 * most], self.widths, width)
        top = _whole(places[2 * most : 3 * most], 0, height - tall + 1)
        left = _whole(places[3 * most :], 0, width - wide + 1)
        for hole in range(most):
            cut = counts > hole
            corners = (top[hole], top[hole] + tall[hole], left[hole], left[hole] + wide[hole])
            sides = (values[cut].tolist() for values in (chosen, *corners))
            for image, y, y_end, x, x_end in zip(*sides, strict=True):
                batch[image, y:y_end, x:x_end] = self.fill

    def _sides(self, uniform: Array, bounds: tuple[float, float], length: int) -> Array:
        low, high = bounds
        if self.relative:
            return (length * (low + (high - low) * uniform)).astype(np.int64)
        return _whole(uniform, int(low), int(high))


def batched_steps(transforms: Sequence[Any], shape: tuple[int, int, int]) -> list[Step] | None:
    """The steps that do what these albumentations transforms do to images [H, W, C]; None unless all can be done here.

    They are read from the transforms themselves, which have checked their arguments and know their defaults.
    """
    steps: list[Step] = []
    place = 0
    while place < len(transforms):
        transform, name = transforms[place], type(transforms[place]).__name__
        step: Step | None = None
        if name in ("HorizontalFlip", "VerticalFlip"):
            step = Flip(name == "HorizontalFlip", transform.p)
        elif name == "CoarseDropout":
            step = _dropout(transform, shape)
        elif name in ("Pad", "PadIfNeeded") and place + 1 < len(transforms):
            place += 1
            step = _pad_crop(transform, transforms[place], shape)
        elif _keeps_all(transform, shape):
            place += 1
            continue
        if step is None:
            return None
        steps.append(step)
        place += 1
    return steps


def _keeps_all(crop: Any, shape: tuple[int, int, int]) -> bool:
    """Is it a RandomCrop of the size that the images have?"""
    return type(crop).__name__ == "RandomCrop" and (crop.height, crop.width) == shape[:2]


def _pad_crop(pad: Any, crop: Any, shape: tuple[int, int, int]) -> PadCrop | None:
    if not _keeps_all(crop, shape) or crop.p < 1.0:
        return None
    position = getattr(pad, "position", "center")
    # The amounts do not depend on the image, and only the position `random` on a draw: any draw shows their sums.
    found = pad.get_params_dependent_on_data({"shape": shape}, {})
    pads = (found["pad_top"], found["pad_bottom"], found["pad_left"], found["pad_right"])
    if any(not isinstance(amount, int) or amount < 0 for amount in pads):
        return None
    if pad.border_mode != cv2.BORDER_CONSTANT:
        return PadCrop(pads, None, int(pad.border_mode), position == "random", pad.p)
    # Which colour comes of `fill` depends on its type and on the channels: the transform itself tells.
    sample = pad.apply(np.zeros((1, 1, shape[2]), dtype=np.uint8), pad_top=1, pad_bottom=0, pad_left=0, pad_right=0)
    return PadCrop(pads, sample.reshape(2, shape[2])[0].copy(), cv2.BORDER_CONSTANT, position == "random", pad.p)


def _dropout(transform: Any, shape: tuple[int, int, int]) -> Dropout | None:
    fill = transform.fill
    values = [fill] if isinstance(fill, int | float) else fill
    if isinstance(fill, str) or any(not 0 <= value <= 255 for value in values) or len(values) not in (1, shape[2]):
        return None
    heights, widths = transform.hole_height_range, transform.hole_width_range
    relative = heights[1] < 1
    if relative and widths[1] > 1:
        return None
    if not relative:
        # As albumentations reads them: whole pixels, the larger bound included.
        heights = (int(heights[0]), int(min(heights[1], shape[0]) + 1))
        widths = (int(widths[0]), int(min(widths[1], shape[1]) + 1))
        if heights[0] >= heights[1] or widths[0] >= widths[1]:
            return None
    colour = np.array(fill, dtype=np.uint8)
    return Dropout(tuple(transform.num_holes_range), heights, widths, relative, colour, transform.p)

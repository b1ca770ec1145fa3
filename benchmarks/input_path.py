"""Our input path against torch's DataLoader with albumentations, from the pool to the tensor that the network gets.

Small images: Fashion-MNIST, padded and cropped, flipped, with a rectangle dropped, normalised. Large ones: JPEGs,
resized, flipped, normalised; ours from the second epoch on, when they lie decoded in the cache, while the DataLoader
decodes them again in every epoch. Both sides deliver float tensors [B, C, H, W], the same up to the draws.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from measuring import Series, Target, in_turns, ratios, report
from torch.utils.data import DataLoader, Dataset

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.data.augment import make_augmenter
from tuneyard.trainers.data.batches import TrainBatches, measure_normalization
from tuneyard.trainers.data.dataset import Samples, load_data
from tuneyard.trainers.data.decoded_cache import DecodedCache
from tuneyard.trainers.data.image_files import decode_files
from tuneyard.trainers.engine import Engine

SMALL: list[Any] = [
    {"Pad": {"padding": 4}},
    {"RandomCrop": {"height": 28, "width": 28}},
    {"HorizontalFlip": {"p": 0.5}},
    {"CoarseDropout": {
        "num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [8, 8], "fill": 0, "p": 0.5,
    }},
]  # fmt: skip
LARGE: list[Any] = [{"HorizontalFlip": {"p": 0.5}}]
STORED_SIZE, LARGE_SIZE = 320, 256
SAME_MEAN = 0.05
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Ours:
    """TrainBatches, and the engine's widening and normalising."""

    def __init__(self, samples: Samples, entries: list[Any], engine: Engine, size: int, repeats: int) -> None:
        self._batches = TrainBatches(
            samples, np.arange(len(samples)), batch_size=size,
            augmenter=make_augmenter(entries, 0, samples.images.shape[1:]),
            ahead=engine.device.type == "cuda", pin_memory=engine.device.type == "cuda",
        )  # fmt: skip
        self._engine, self._repeats = engine, repeats
        mean, std = measure_normalization(samples, np.arange(len(samples)))
        self.normalization: Normalization = (mean, std)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(mean, device=engine.device).view(shape) * 255.0
        self._inverse_std = 1.0 / (torch.tensor(std, device=engine.device).view(shape) * 255.0)

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the network gets."""
        for batch in self._batches.epoch(epoch):
            images = self._engine.inputs(batch.images, self._mean, self._inverse_std)
            yield images, batch.labels.to(self._engine.device, non_blocking=True)

    def speed(self, number: int) -> float:
        """Images per second, of several epochs: one alone takes too short a time to be measured well."""
        first = number * self._repeats
        return _speed(images for epoch in range(first, first + self._repeats) for images in self.batches(epoch))


class Theirs:
    """A DataLoader with two processes that are kept, and one Compose for all that is done to an image."""

    def __init__(self, dataset: Dataset[Any], size: int, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the network gets."""
        for images, labels in self._loader:
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def speed(self, number: int) -> float:
        """Images per second of one epoch."""
        return _speed(self.batches(number))


class _Pool(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory."""

    def __init__(self, samples: Samples, transform: Any) -> None:
        self._images, self._labels, self._transform = samples.images, samples.labels, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(image=self._images[index])["image"], int(self._labels[index])


class _Jpegs(Dataset[tuple[torch.Tensor, int]]):
    """Images in files, read, decoded and resized each time."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        stored = cv2.imread(str(self._paths[index]), cv2.IMREAD_COLOR_RGB)
        assert stored is not None, "we wrote it"
        image = cv2.resize(stored, (LARGE_SIZE, LARGE_SIZE), interpolation=cv2.INTER_AREA)
        return self._transform(image=image)["image"], 0


def compose(entries: list[Any], normalization: Normalization) -> Any:
    """The same transforms, with albumentations' own normalisation, as its documentation has it."""
    chosen = [
        getattr(albumentations, name)(**arguments) for entry in entries for name, arguments in entry.items()
    ]  # fmt: skip
    mean, std = normalization
    return albumentations.Compose([*chosen, albumentations.Normalize(mean, std), ToTensorV2()])


def _speed(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> float:
    began = time.perf_counter()
    count = sum(len(labels) for _, labels in batches)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """Photograph-like files: smooth colours with grain, 320 pixels square, some 50 kB each."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for path in paths:
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (STORED_SIZE, STORED_SIZE), interpolation=cv2.INTER_CUBIC)
        grain = random.normal(0.0, 6.0, (STORED_SIZE, STORED_SIZE, 1))
        cv2.imwrite(str(path), np.clip(smooth + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def check_same(ours: Ours, theirs: Theirs) -> str:
    """Both sides' shape and mean of an epoch, as a note; leaves where they differ."""
    seen = []
    for side in (ours, theirs):
        batches = [images for images, _ in side.batches(0)]
        mean = torch.stack([images.mean() for images in batches]).mean().item()
        seen.append((tuple(batches[0].shape), batches[0].dtype, mean))
    if seen[0][:2] != seen[1][:2] or abs(seen[0][2] - seen[1][2]) > SAME_MEAN:
        sys.exit(f"The sides do not deliver the same: {seen[0]} and {seen[1]}.")
    shape, dtype, mean = seen[0]
    return f"batches of {list(shape)} {dtype}; mean {mean:.4f} (tuneyard), {seen[1][2]:.4f} (DataLoader)"


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    engine = Engine(TrainConfig())
    notes: list[str] = []
    figures: dict[str, Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[int], float]] = {}
        for what, pair in (("small", small_sides), ("large", large_sides)):
            ours, theirs = pair(arguments, engine, Path(folder))
            notes.append(f"{what}: {check_same(ours, theirs)}")
            sides |= {f"{what}, tuneyard": ours.speed, f"{what}, DataLoader": theirs.speed}
        figures = in_turns(sides, arguments.rounds, "images/s")
    against = {
        f"{what}, tuneyard / DataLoader": ratios(figures[f"{what}, tuneyard"], figures[f"{what}, DataLoader"])
        for what in ("small", "large")
    }
    notes.append(f"{torch.get_num_threads()} threads, {arguments.workers} DataLoader processes, {engine.device}")
    targets = [
        Target("small, tuneyard / DataLoader", "at least", 20.0),
        Target("large, tuneyard / DataLoader", "at least", 8.0),
    ]
    return report("input_path", figures, against, targets, notes)


def small_sides(arguments: argparse.Namespace, engine: Engine, folder: Path) -> tuple[Ours, Theirs]:
    """Fashion-MNIST."""
    pool = load_data(DataConfig(source="fashion-mnist"), Path()).pool
    samples = Samples(pool.images[: arguments.small], pool.labels[: arguments.small], pool.names[: arguments.small])
    ours = Ours(samples, SMALL, engine, 256, repeats=10)
    return ours, Theirs(_Pool(samples, compose(SMALL, ours.normalization)), 256, arguments.workers)


def large_sides(arguments: argparse.Namespace, engine: Engine, folder: Path) -> tuple[Ours, Theirs]:
    """JPEGs, which are written now, and decoded into a cache of their own."""
    paths = write_jpegs(folder, arguments.large)
    decoded = decode_files(paths, LARGE_SIZE, 3, DecodedCache(folder / "cache"), "fail")
    samples = Samples(decoded.images, np.zeros(len(paths), dtype=np.int64), [str(path) for path in paths])
    ours = Ours(samples, LARGE, engine, arguments.large_batch, repeats=2)
    transform = compose(LARGE, ours.normalization)
    return ours, Theirs(_Jpegs(paths, transform), arguments.large_batch, arguments.workers)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", type=int, default=8192, help="Fashion-MNIST images in an epoch")
    parser.add_argument("--large", type=int, default=1536, help="JPEGs in an epoch")
    parser.add_argument("--large-batch", type=int, default=32, help="JPEGs in a batch")
    parser.add_argument("--workers", type=int, default=2, help="the DataLoader's processes")
    parser.add_argument("--threads", type=int, help="torch's threads; all cores if unset")
    parser.add_argument("--quick", action="store_true", help="3 rounds of fewer images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.small, arguments.large = 3, 4096, 512
    return arguments


if __name__ == "__main__":
    sys.exit(main())

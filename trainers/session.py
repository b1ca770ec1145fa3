"""What a process keeps from run to run: the data, the stores, the tracker, the machine's facts."""

import atexit
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tuneyard.trainers.config.data import DataConfig, Normalization
from tuneyard.trainers.data.batches import measure_normalization
from tuneyard.trainers.data.dataset import ImageData, Samples, load_data
from tuneyard.trainers.data.splits import Split, draw_split
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.memory import resident_bytes
from tuneyard.trainers.provenance import environment
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.trainers.tracking.tracker import Tracker


@dataclass(frozen=True, slots=True)
class LoadedData:
    """Data that is ready to train on."""

    pool: Samples
    test: Samples | None
    split: Split
    classes: tuple[str, ...]
    channels: int
    fingerprint: str
    skipped: tuple[str, ...]
    normalization: tuple[tuple[float, ...], tuple[float, ...]]


class Session:
    """One per process. A run borrows from it; nothing in it belongs to a single run but the tracker's open experiment.

    Args:
        threads: cores that training may use here; sets torch's threads.
        cpu: stay off the GPU even where there is one.
        gpu_share: of the GPU's memory, where other processes share the GPU; CUDA refuses what goes beyond it.
    """

    def __init__(self, *, threads: int | None = None, cpu: bool = False, gpu_share: float = 1.0) -> None:
        self.imports_bytes = resident_bytes()
        # What the imports left lives as long as the process. Frozen, it is passed over by the collection that ends each
        # run (to let go of its model), which then takes milliseconds instead of 0.2 s.
        gc.freeze()
        # At the end all is looked at again, or libraries that count their objects (triton) would complain of leaks.
        atexit.register(gc.unfreeze)
        self.cpu = cpu
        self.threads = threads or available_cores()
        torch.set_num_threads(self.threads)
        if not cpu and 0.0 < gpu_share < 1.0 and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(gpu_share)
        self.tracker = Tracker()
        self._data: dict[tuple[str, Path], LoadedData] = {}
        self._loaded: tuple[tuple[str, Path], ImageData] | None = None
        self._stores: dict[tuple[str, S3Options], Store] = {}
        self.attempts: dict[str, int] = {}  # by the prefix of each run trained here: the number that it claimed
        self._runs = 0

    def begin_run(self) -> None:
        """Called before anything of a run is made."""
        self._runs += 1
        if self._runs == 2:
            # The first run has imported the rest (albumentations, torch's compiler); what is left of it goes first.
            gc.collect()
            gc.freeze()

    @property
    def loader_processes(self) -> int:
        """Processes that augment beside the training.

        Beside a GPU every core but one. Where the CPU itself trains, cores given to augmentation are taken from the
        training: one in four.
        """
        return min(self.threads // 4 if self.cpu or not torch.cuda.is_available() else self.threads - 1, 8)

    def data(self, config: DataConfig, project_dir: Path) -> LoadedData:
        """The data of this config, loaded once; raises DataError or ConfigError."""
        key = (config.model_copy(update={"augment": []}).model_dump_json(), project_dir)
        if key not in self._data:
            self._data.clear()  # trials of a sweep nearly always share one; two would hold memory for nothing
            self._data[key] = prepare_data(config, project_dir, self._images(config, project_dir))
        return self._data[key]

    def _images(self, config: DataConfig, project_dir: Path) -> ImageData:
        """The images, which all folds of a cross-validation have in common."""
        validation = config.validation.model_copy(update={"fold": None, "predictions": False})
        common = config.model_copy(update={"augment": [], "normalize": "auto", "validation": validation})
        key = (common.model_dump_json(), project_dir)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old ones first, so that memory never holds both
            self._loaded = (key, load_data(config, project_dir))
        return self._loaded[1]

    def store(self, spec: TrialSpec) -> Store:
        """The store of this run, opened once."""
        checkpoint = spec.experiment.checkpoint
        key = (spec.store_uri, checkpoint.s3_options)
        if key not in self._stores:
            self._stores[key] = open_store(*key)
        return self._stores[key]

    def environment(self) -> dict[str, Any]:
        """Python, packages, processor, GPUs."""
        return _environment()

    def close(self, timeout_s: float = 60.0) -> Sequence[str]:
        """Wait for the trackers; returns what went wrong with them."""
        return self.tracker.close(timeout_s)


@cache
def _environment() -> dict[str, Any]:
    return environment()


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_data(config: DataConfig, project_dir: Path, loaded: ImageData | None = None) -> LoadedData:
    """Load (unless that was done), split and measure the data; raises DataError or ConfigError."""
    data = loaded or load_data(config, project_dir)
    split = draw_split(data.pool, config.validation, len(data.classes))
    if isinstance(config.normalize, Normalization):
        given = len(config.normalize.mean)
        if given != data.channels:
            raise ConfigError(
                f"data.normalize: {given} channels given, but the images have {data.channels}; give as many, or auto, "
                "or set data.channels."
            )
        normalization = (tuple(config.normalize.mean), tuple(config.normalize.std))
    else:
        normalization = measure_normalization(data.pool, split.train)
    return LoadedData(
        pool=data.pool, test=data.test, split=split, classes=data.classes, channels=data.channels,
        fingerprint=data.fingerprint, skipped=tuple(f"{skip.path}: {skip.reason}" for skip in data.skipped),
        normalization=normalization,
    )  # fmt: skip

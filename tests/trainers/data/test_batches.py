"""Batches: what each worker gets, in which order, and that processes and resuming change nothing."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tuneyard.trainers.data.augment import Augmenter, make_augmenter
from tuneyard.trainers.data.batches import Batch, EvalBatches, TrainBatches, epoch_order, measure_normalization
from tuneyard.trainers.data.dataset import Samples
from tuneyard.trainers.errors import ConfigError, DataError

AUGMENT: list[Any] = ["HorizontalFlip", {"CoarseDropout": {"p": 0.5}}]


def samples(count: int = 50, channels: int = 1, images: Any = None) -> Samples:
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return Samples(images, np.arange(count) % 3, [str(index) for index in range(count)])


def train(data: Samples | None = None, **options: Any) -> TrainBatches:
    data = data or samples()
    batches = TrainBatches(data, options.pop("indices", np.arange(len(data))), **({"batch_size": 8} | options))
    assert batches.wait_for_processes(60.0)
    return batches


def indices(batches: Sequence[Batch] | Iterator[Batch] | EvalBatches) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def assert_same(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert indices(ours) == indices(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_batch_holds_the_images_and_labels_of_its_indices() -> None:
    data = samples()
    batch = next(iter(train(data).epoch(0)))
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(batch.images.numpy(), data.images[batch.indices])
    np.testing.assert_array_equal(batch.labels.numpy(), data.labels[batch.indices])


def test_an_epoch_shows_no_sample_twice_and_drops_the_incomplete_batch() -> None:
    batches = train(indices=np.arange(10, 31))
    seen = flat(indices(batches.epoch(0)))
    assert batches.steps_per_epoch == 2
    assert len(set(seen)) == len(seen) == 16
    assert set(seen) <= set(range(10, 31))


def test_the_only_batch_is_kept_though_incomplete() -> None:
    batches = train(indices=np.arange(5))
    assert (batches.steps_per_epoch, batches.global_batch_size) == (1, 5)
    assert sorted(flat(indices(batches.epoch(0)))) == [0, 1, 2, 3, 4]


def test_epochs_and_seeds_differ() -> None:
    orders = [indices(train(seed=seed).epoch(epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert epoch_order(50, 0, 1)[:8].tolist() == orders[1][0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_workers_shares_make_up_the_global_batch(world_size: int) -> None:
    whole = indices(train().epoch(4))
    shares = [indices(train(rank=rank, world_size=world_size).epoch(4)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert sorted(flat(share[step] for share in shares)) == sorted(batch)


def test_a_resumed_epoch_goes_on_with_the_same_batches() -> None:
    augmenter = Augmenter(AUGMENT, 0)
    whole = list(train(augmenter=augmenter).epoch(1))
    assert_same(list(train(augmenter=augmenter).epoch(1, start=4)), whole[4:])


def test_augmentation_leaves_the_pool_as_it_is() -> None:
    data = samples()
    before = data.images.copy()
    batches = list(train(data, augmenter=Augmenter([{"CoarseDropout": {"p": 1.0}}], 0)).epoch(0))
    assert any(not np.array_equal(batch.images, before[batch.indices]) for batch in batches)
    np.testing.assert_array_equal(data.images, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 2, "world_size": 3}, ConfigError, "batch_size is 2"),
        ({"indices": np.arange(1), "world_size": 2}, DataError, "1 training samples"),
        ({"indices": np.array([], dtype=np.int64)}, DataError, "no samples"),
        ({"indices": np.array([50])}, IndexError, "50 of 50"),
    ],
)
def test_batches_that_cannot_be_made(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(**options)


def test_a_thread_that_makes_batches_ahead_makes_the_same() -> None:
    augmenter = make_augmenter(AUGMENT, 0, (8, 8, 1))
    inline, batches = train(augmenter=augmenter), train(augmenter=augmenter, ahead=True)
    next(iter(batches.epoch(0)))
    for epoch, start in ((0, 0), (3, 2)):
        assert_same(list(batches.epoch(epoch, start)), list(inline.epoch(epoch, start)))
    batches.close()


@pytest.mark.parametrize("mapped", [False, True])
def test_processes_make_the_same_batches(tmp_path: Path, mapped: bool) -> None:
    data = samples()
    if mapped:
        np.save(tmp_path / "images.npy", data.images)
        data = samples(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    inline = train(data, augmenter=Augmenter(AUGMENT, 0))
    batches = train(data, augmenter=Augmenter(AUGMENT, 0), processes=2)
    before = torch.random.get_rng_state()
    try:
        for epoch, start in ((0, 0), (1, 0), (3, 2)):
            assert_same(list(batches.epoch(epoch, start)), list(inline.epoch(epoch, start)))
    finally:
        batches.close()
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_epoch_that_was_left_early_does_not_spill_into_the_next() -> None:
    inline, batches = train(augmenter=Augmenter(AUGMENT, 0)), train(augmenter=Augmenter(AUGMENT, 0), processes=2)
    try:
        next(iter(batches.epoch(0)))
        assert_same(list(batches.epoch(1)), list(inline.epoch(1)))
    finally:
        batches.close()


def test_batches_come_before_the_processes_have_started() -> None:
    batches = TrainBatches(samples(), np.arange(len(samples())), batch_size=8, processes=1)
    made = list(batches.epoch(0))
    assert_same(made, list(train().epoch(0)))
    batches.close()


def test_close_ends_the_processes() -> None:
    def loaders() -> set[int]:
        return {child.pid for child in psutil.Process().children(recursive=True) if child.is_running()}

    warm = train(processes=1)
    list(warm.epoch(0))
    warm.close()
    server = loaders()  # the fork server stays
    batches = train(processes=2)
    next(iter(batches.epoch(0)))
    made = loaders() - server
    assert len(made) == 2
    batches.close()
    psutil.wait_procs([psutil.Process(pid) for pid in made if psutil.pid_exists(pid)], timeout=10)
    assert not any(psutil.pid_exists(pid) for pid in made)


@pytest.mark.parametrize("processes", [0, 1])
def test_an_error_in_a_transform_comes_through(processes: int) -> None:
    batches = train(augmenter=Augmenter([{"RandomCrop": {"height": 4, "width": 4, "p": 1.0}}], 0), processes=processes)
    try:
        with pytest.raises(ConfigError, match=r"^data\.augment made uint8 \[4, 4, 1\]"):
            list(batches.epoch(0))
    finally:
        batches.close()


def test_evaluation_goes_through_all_in_order() -> None:
    batches = EvalBatches(samples(), np.arange(3, 14), 4)
    assert indices(batches) == [[3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]
    assert len(batches) == 3


@pytest.mark.parametrize("count", [1, 11, 12])
def test_the_workers_evaluate_every_sample_once(count: int) -> None:
    shares = [EvalBatches(samples(), np.arange(count), 4, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(flat(flat(indices(share)) for share in shares)) == list(range(count))
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]


def test_normalization_is_the_mean_and_deviation_of_each_channel() -> None:
    data = samples(channels=3)
    chosen = np.arange(5, 45)
    mean, std = measure_normalization(data, chosen)
    scaled = data.images[chosen] / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)


def test_normalization_of_many_images_takes_some_from_everywhere() -> None:
    images = np.repeat(np.array([0, 255], dtype=np.uint8), 25).reshape(50, 1, 1, 1)
    assert measure_normalization(samples(images=images), np.arange(50), limit=10)[0] == (0.5,)


def test_normalization_of_a_constant_channel_does_not_divide_by_zero() -> None:
    images = np.full((50, 2, 2, 1), 51, dtype=np.uint8)
    assert measure_normalization(samples(images=images), np.arange(50)) == ((0.2,), (1 / 255,))


ORPHANED = """
import os, sys, numpy as np, psutil
from tuneyard.trainers.data.batches import TrainBatches
from tuneyard.trainers.data.dataset import Samples

if __name__ == "__main__":
    pool = Samples(np.zeros((50, 8, 8, 1), dtype=np.uint8), np.zeros(50, dtype=np.int64), [""] * 50)
    batches = TrainBatches(pool, np.arange(50), batch_size=8, processes=1)
    assert batches.wait_for_processes(60.0)
    next(iter(batches.epoch(0)))
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), 9)
"""


def test_the_processes_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(ORPHANED)
    # To a file: the orphans would hold a pipe open.
    with (tmp_path / "pids").open("w") as pids:
        subprocess.run([sys.executable, str(tmp_path / "main.py")], stdout=pids, check=False, timeout=120)
    orphans = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(orphans) >= 2  # the fork server and the loader
    alive = [psutil.Process(pid) for pid in orphans if psutil.pid_exists(pid)]
    assert psutil.wait_procs(alive, timeout=20)[1] == []

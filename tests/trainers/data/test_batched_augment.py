"""The batched transforms: the same images as albumentations makes, as often, and draws that can be repeated."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from tuneyard.trainers.data.augment import Augmenter, make_augmenter
from tuneyard.trainers.data.batched_augment import BatchedAugmenter, uniform_draws
from tuneyard.trainers.errors import ConfigError

DRAWS = 2500
CUTOUT: dict[str, Any] = {
    "num_holes_range": [1, 3], "hole_height_range": [2, 4], "hole_width_range": [1, 3], "fill": 7.9, "p": 0.8
}  # fmt: skip
SAME: dict[str, list[Any]] = {
    "flips": [{"HorizontalFlip": {"p": 0.3}}, "VerticalFlip"],
    "never and always": [{"HorizontalFlip": {"p": 0.0}}, {"VerticalFlip": {"p": 1.0}}],
    "pad and crop": [{"Pad": {"padding": 2, "fill": 9}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "seldom padded": [{"Pad": {"padding": [1, 2], "p": 0.4}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "uneven": [{"Pad": {"padding": [0, 1, 2, 3]}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "reflected": [{"Pad": {"padding": 2, "border_mode": 4}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "wrapped": [{"Pad": {"padding": 2, "border_mode": 3}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "if needed": [{"PadIfNeeded": {"min_height": 9, "min_width": 8}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "divisors": [
        {"PadIfNeeded": {"min_height": None, "min_width": None, "pad_height_divisor": 4, "pad_width_divisor": 5,
                         "position": "top_left"}},
        {"RandomCrop": {"height": 6, "width": 6}},
    ],
    "random place": [
        {"PadIfNeeded": {"min_height": 8, "min_width": 7, "position": "random", "border_mode": 1}},
        {"RandomCrop": {"height": 6, "width": 6}},
    ],
    "one hole": [{"CoarseDropout": {"num_holes_range": [1, 1], "hole_height_range": [3, 3],
                                    "hole_width_range": [5, 5]}}],
    "shares": [{"CoarseDropout": {"num_holes_range": [1, 1], "hole_height_range": [0.2, 0.7],
                                  "hole_width_range": [0.4, 0.9], "p": 1.0}}],
    "mixed bounds": [{"CoarseDropout": {"num_holes_range": [1, 1], "hole_height_range": [0.5, 1.5],
                                        "hole_width_range": [1, 2], "p": 1.0}}],
    "larger than the image": [{"CoarseDropout": {"num_holes_range": [1, 1], "hole_height_range": [5, 50],
                                                 "hole_width_range": [4, 50], "p": 1.0}}],
    "in another order": [{"CoarseDropout": CUTOUT | {"num_holes_range": [1, 1], "hole_width_range": [3, 3]}},
                         {"Pad": {"padding": 1}}, {"RandomCrop": {"height": 6, "width": 6}}],
    "the whole image": [{"RandomCrop": {"height": 6, "width": 6, "pad_if_needed": True}}, "HorizontalFlip"],
}  # fmt: skip


def picture(channels: int = 1, size: int = 6) -> np.ndarray:
    """Pixels that all differ where there are few, and are no fill."""
    if size * size * channels > 200:
        return np.random.default_rng(0).integers(10, 250, (size, size, channels), dtype=np.uint8)
    return np.arange(10, 10 + size * size * channels, dtype=np.uint8).reshape(size, size, channels)


def batched(entries: list[Any], image: np.ndarray, count: int = DRAWS, seed: int = 3) -> np.ndarray:
    augmenter = make_augmenter(entries, seed, image.shape)
    assert isinstance(augmenter, BatchedAugmenter)
    return made(augmenter, np.broadcast_to(image, (count, *image.shape)), np.arange(count))


def one_by_one(entries: list[Any], image: np.ndarray, count: int = DRAWS) -> np.ndarray:
    augmenter = Augmenter(entries, 0)
    return np.stack([augmenter(image.copy(), 0, index) for index in range(count)])


def made(augmenter: Any, pool: np.ndarray, indices: np.ndarray, epoch: int = 0) -> np.ndarray:
    out = np.empty((len(indices), *pool.shape[1:]), dtype=np.uint8)
    augmenter.make(pool, epoch, indices, out)
    return out


def alike(ours: list[bytes], theirs: list[bytes]) -> float:
    """p of a chi-square test that both come from one distribution; outcomes that are too rare are taken together."""
    counts = [Counter(ours), Counter(theirs)]
    common = [outcome for outcome in counts[0] | counts[1] if sum(count[outcome] for count in counts) >= 10]
    table = [[count[outcome] for outcome in common] for count in counts]
    rest = [len(ours) - sum(row) for row in table]
    columns = [*zip(*table, strict=True), *([tuple(rest)] if sum(rest) else [])]
    return 1.0 if len(columns) == 1 else float(chi2_contingency(np.array(columns).T).pvalue)


@pytest.mark.parametrize("entries", SAME.values(), ids=SAME.keys())
def test_every_image_comes_as_often_as_from_albumentations(entries: list[Any]) -> None:
    ours, theirs = (side(entries, picture()) for side in (batched, one_by_one))
    outcomes = [[image.tobytes() for image in side] for side in (ours, theirs)]
    # What one side makes often must exist on the other; by chance alone only rare outcomes are missing.
    often = [{outcome for outcome, count in Counter(side).items() if count >= 15} for side in outcomes]
    assert often[0] <= set(outcomes[1])
    assert often[1] <= set(outcomes[0])
    assert alike(*outcomes) > 0.001


def test_many_holes_cover_as_much_as_those_of_albumentations() -> None:
    ours, theirs = ((side([{"CoarseDropout": CUTOUT}], picture()) == 7)[..., 0] for side in (batched, one_by_one))
    assert ks_2samp(ours.sum(axis=(1, 2)), theirs.sum(axis=(1, 2))).pvalue > 0.001
    # How often each pixel is covered: binomial on both sides, so their difference stays within five deviations.
    rates = ours.mean(axis=0), theirs.mean(axis=0)
    assert np.abs(rates[0] - rates[1]).max() < 5 * np.sqrt(2 * 0.25 / DRAWS)


@pytest.mark.parametrize(("channels", "size"), [(3, 6), (5, 6), (1, 80), (3, 80)])
def test_colours_and_large_images_are_the_same_images(channels: int, size: int) -> None:
    colour = [1.0, 2.0, 3.0, 4.0, 5.0][:channels]
    pads = [{"Pad": {"padding": 1, "fill": colour if channels < 5 else 0}}]
    image = picture(channels, size)
    holes: dict[str, Any] = {"num_holes_range": [1, 1], "hole_height_range": [size // 2, size // 2]}
    holes["hole_width_range"] = [size, size]
    for entries in (
        [*pads, {"RandomCrop": {"height": size, "width": size}}, "HorizontalFlip", "VerticalFlip"],
        [{"CoarseDropout": holes | {"fill": colour}}],
    ):
        ours, theirs = ({each.tobytes() for each in side(entries, image, 600)} for side in (batched, one_by_one))
        assert ours == theirs


@pytest.mark.parametrize(
    "entries",
    [
        ["HorizontalFlip", "GaussNoise"],
        [{"Pad": {"padding": 2}}, "HorizontalFlip", {"RandomCrop": {"height": 6, "width": 6}}],
        [{"CoarseDropout": {"fill": "random"}}],
        [{"CoarseDropout": {"fill": 300}}],
        [{"CoarseDropout": {"hole_height_range": [8, 9], "hole_width_range": [1, 2]}}],
        [{"OneOf": {"transforms": ["HorizontalFlip"]}}],
        [{"RandomCrop": {"height": 5, "width": 6}}],
    ],
)
def test_what_cannot_be_done_on_batches_goes_through_albumentations(entries: list[Any]) -> None:
    assert isinstance(make_augmenter(entries, 0, (6, 6, 1)), Augmenter)


def test_mistakes_are_told_here_too() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'HorizontalFlip'"):
        make_augmenter(["HorizontalFlp"], 0, (6, 6, 1))


def test_no_transforms_need_no_augmenter() -> None:
    assert make_augmenter([], 0, (6, 6, 1)) is None


def pipeline() -> BatchedAugmenter:
    entries: list[Any] = [*SAME["pad and crop"], "HorizontalFlip", {"CoarseDropout": CUTOUT}]
    augmenter = make_augmenter(entries, 5, (6, 6, 1))
    assert isinstance(augmenter, BatchedAugmenter)
    return augmenter


def test_an_image_depends_neither_on_its_batch_nor_on_its_place() -> None:
    pool = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 1), dtype=np.uint8)
    before, order = pool.copy(), np.random.default_rng(1).permutation(50)
    whole = made(pipeline(), pool, order, epoch=2)
    parts = np.concatenate([made(pipeline(), pool, order[start : start + 7], epoch=2) for start in range(0, 50, 7)])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(made(pipeline(), pool, np.sort(order), epoch=2), whole[np.argsort(order)])
    np.testing.assert_array_equal(pool, before)


def test_seeds_epochs_and_samples_draw_differently() -> None:
    draws = [
        uniform_draws(seed, epoch, np.array([index]), 4).tobytes()
        for seed in range(4) for epoch in range(4) for index in range(4)
    ]  # fmt: skip
    assert len(set(draws)) == 64


def test_draws_are_uniform_and_have_nothing_to_do_with_each_other() -> None:
    draws = np.concatenate([uniform_draws(0, epoch, np.arange(2000), 6) for epoch in range(2)])
    for row in draws:
        assert ks_2samp(row, (np.arange(2000) + 0.5) / 2000).pvalue > 0.001
    correlations = np.corrcoef(draws)[~np.eye(len(draws), dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
    neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in draws]
    assert np.abs(neighbours).max() < 5 / np.sqrt(2000)


def test_the_draws_stay_the_same_from_release_to_release() -> None:
    # A changed hash would let a resumed run go on with other images than it began with.
    words = (uniform_draws(1, 2, np.array([3]), 2) * 2.0**53).astype(np.int64)
    assert words.tolist() == [[3268949770453033], [2457569952382194]]

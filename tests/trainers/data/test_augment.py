"""Augmentation: mistakes in the list of transforms, and draws that can be repeated."""

import pickle
from typing import Any

import numpy as np
import pytest

from tuneyard.trainers.data.augment import Augmenter, check_pipeline, validate_transforms
from tuneyard.trainers.errors import ConfigError

PIPELINE: list[Any] = [
    "HorizontalFlip",
    {"Pad": {"padding": 4, "p": 1.0}},
    {"RandomCrop": {"height": 28, "width": 28, "p": 1.0}},
    {"OneOf": {"transforms": [{"CoarseDropout": {"p": 1.0}}, {"GaussNoise": {"p": 1.0}}], "p": 0.7}},
]


def noise(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (28, 28, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("HorizontalFlp", r"data\.augment\[1\]: 'HorizontalFlp' is not known. Did you mean 'HorizontalFlip'"),
        ({"HorizontalFlip": {"q": 1}}, r"data\.augment\[1\]\.HorizontalFlip\.q: 'q' is not known.* Allowed: p\."),
        ({"Pad": {"pading": 4}}, r"Pad\.pading: 'pading' is not known. Did you mean 'padding'"),
        ({"HorizontalFlip": {"p": 2}}, r"HorizontalFlip\.p: .*less than or equal to 1; given: 2"),
        ({"CoarseDropout": {"num_holes_range": "x"}}, r"CoarseDropout\.num_holes_range: .*given: 'x'"),
        ({"RandomCrop": {"height": 4}}, r"RandomCrop\.width: Field required"),
        ({"HorizontalFlip": {}, "VerticalFlip": {}}, r"the keys HorizontalFlip, VerticalFlip; give one"),
        ({"HorizontalFlip": 0.5}, r"HorizontalFlip is 0\.5; give its arguments by name"),
        (7, r"data\.augment\[1\] is 7"),
        ("Normalize", r"Normalize cannot be used here: data\.normalize does it"),
        ("ToTensorV2", r"ToTensorV2 cannot be used here"),
        ({"OneOf": {}}, r"OneOf\.transforms is None; give a list"),
        ({"OneOf": {"transforms": [{"Pad": {"q": 1}}]}}, r"data\.augment\[1\]\.OneOf\.transforms\[0\]\.Pad\.q: "),
        ({"SomeOf": {"transforms": ["VerticalFlip"], "n": 3}}, r"SomeOf: `n` is greater"),
    ],
)
def test_mistakes_are_told_with_their_path(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_transforms(["VerticalFlip", entry])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_good_pipeline_passes(channels: int) -> None:
    validate_transforms(PIPELINE)
    check_pipeline(PIPELINE, 28, channels)


@pytest.mark.parametrize(
    ("entry", "channels", "message"),
    [
        ({"RandomCrop": {"height": 20, "width": 20, "p": 1.0}}, 1, r"made uint8 \[20, 20, 1\] of uint8 \[28, 28, 1\]"),
        # So rare that no image of a short try would meet it.
        ({"CenterCrop": {"height": 20, "width": 20, "p": 1e-9}}, 1, r"made uint8 \[20, 20, 1\]"),
        ({"OneOf": {"transforms": [{"RandomScale": {"p": 1e-9}}], "p": 1e-9}}, 1, "Images must keep their size"),
        ({"ToRGB": {"p": 1.0}}, 1, r"\[28, 28, 3\]"),
        ({"RandomFog": {"p": 1.0}}, 1, r"data\.augment\[0\]\.RandomFog fails on an image of 28x28x1: .*3-channel"),
        ({"BBoxSafeRandomCrop": {"p": 1.0}}, 1, "it needs 'bboxes', which these images do not have"),
        ({"FDA": {"p": 1.0}}, 1, "FDA requires"),
    ],
)
def test_pipelines_that_do_not_fit_the_images(entry: Any, channels: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_pipeline([entry], 28, channels)


def test_the_draw_depends_on_seed_epoch_and_index() -> None:
    image = noise()
    draws = [
        Augmenter(PIPELINE, seed)(image.copy(), epoch, index).tobytes()
        for seed, epoch, index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len(set(draws)) == 4


def test_the_draw_does_not_depend_on_what_came_before() -> None:
    image = noise()
    fresh = [Augmenter(PIPELINE, 0)(image.copy(), 2, index) for index in range(6)]
    augmenter = Augmenter(PIPELINE, 0)
    for index in (5, 0, 3, 1, 4, 2):
        np.testing.assert_array_equal(augmenter(image.copy(), 2, index), fresh[index])


def test_a_pickled_augmenter_draws_the_same() -> None:
    image = noise()
    augmenter = Augmenter(PIPELINE, 5)
    again = pickle.loads(pickle.dumps(augmenter))
    np.testing.assert_array_equal(augmenter(image.copy(), 1, 7), again(image.copy(), 1, 7))


def test_half_of_the_images_are_flipped() -> None:
    augmenter, image = Augmenter(["HorizontalFlip"], 0), noise()
    flipped = sum(not np.array_equal(augmenter(image.copy(), 0, index), image) for index in range(1000))
    assert 420 < flipped < 580  # five standard deviations


def test_no_transforms_change_nothing() -> None:
    np.testing.assert_array_equal(Augmenter([], 0)(noise(), 0, 0), noise())

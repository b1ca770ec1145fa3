"""Arrays at the size that was asked for: small ones in memory, large ones shared in the cache."""

from pathlib import Path

import numpy as np
import pytest

from tuneyard.trainers.data import array_images
from tuneyard.trainers.data.array_images import fit_arrays
from tuneyard.trainers.data.decoded_cache import DecodedCache

IMAGES = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)


def fit(tmp_path: Path, size: int = 6, digest: str = "d" * 64) -> np.ndarray:
    return fit_arrays(IMAGES, digest, size, 1, DecodedCache(tmp_path), "digits")


def test_large_results_are_shared_and_the_same_as_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = fit(tmp_path)
    assert not isinstance(in_memory, np.memmap)
    monkeypatch.setattr(array_images, "_SHARED_FROM_BYTES", 1)
    shared = fit(tmp_path)
    assert isinstance(shared, np.memmap)
    np.testing.assert_array_equal(shared, in_memory)
    monkeypatch.setattr(array_images, "_fit_rows", None)
    np.testing.assert_array_equal(fit(tmp_path), in_memory)


def test_other_pixels_and_other_sizes_are_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_images, "_SHARED_FROM_BYTES", 1)
    for size, digest in ((6, "d" * 64), (5, "d" * 64), (6, "e" * 64)):
        assert fit(tmp_path, size, digest).shape == (2000, size, size, 1)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_fits_already_stays_as_it_is(tmp_path: Path) -> None:
    assert np.shares_memory(fit_arrays(IMAGES, "d" * 64, 8, "auto", DecodedCache(tmp_path), "digits"), IMAGES)

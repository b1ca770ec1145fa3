"""Images that came as arrays, at the size and with the channels that were asked for."""

import math
from typing import Any, Literal

import numpy as np

from tuneyard.trainers.data.decoded_cache import Building, DecodedCache
from tuneyard.trainers.data.image_files import resize
from tuneyard.trainers.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]

# Part of every cache key: raise it when fitting changes.
_FORMAT = 1
# Larger ones are shared by the processes of a machine; smaller ones cost less than they would on the disk.
_SHARED_FROM_BYTES = 32 * 2**20
_BLOCK = 1024
_GREY_WEIGHTS = np.array([[0.299], [0.587], [0.114]])


def fit_arrays(
    images: Array, digest: str, size: int, channels: Literal["auto"] | int, cache: DecodedCache, source: str
) -> Array:
    """uint8 [n, H, W] or [n, H, W, C] to [n, size, size, channels]; the same memory where nothing changes.

    digest: of shape and pixels, which large results have in the cache as their name. source: for messages.
    Raises ConfigError for channels that cannot be had, DataError where the cache has no room.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    count, height, width, given = images.shape
    wanted = given if channels == "auto" else channels
    if given != wanted and {given, wanted} != {1, 3}:
        raise ConfigError(f"data.channels is {wanted}, but {source} has {given}. Give {given}, or auto.")
    if (height, width, given) == (size, size, wanted):
        return images
    shape = (count, size, size, wanted)
    if math.prod(shape) < _SHARED_FROM_BYTES:
        fitted = np.empty(shape, dtype=np.uint8)
        _fit_rows(images, fitted)
        return fitted

    def build(entry: Building) -> dict[str, Any]:
        fitted = entry.images(shape)
        for start in range(0, count, _BLOCK):
            entry.progress(start, count)
            _fit_rows(images[start : start + _BLOCK], fitted[start : start + _BLOCK])
        return {}

    shared, _ = cache.entry(f"{digest[:32]}-{_FORMAT}-{size}-{wanted}", f"{count:,} images of {source}", build)
    return shared


def _fit_rows(images: Array, fitted: Array) -> None:
    size, wanted, given = fitted.shape[1], fitted.shape[3], images.shape[3]
    for position in range(len(images)):
        image = resize(np.ascontiguousarray(images[position]), size).reshape(size, size, given)
        # Grey from colour by the weights of ITU-R BT.601, as image files are converted; colour from grey by repeating.
        fitted[position] = np.rint(image @ _GREY_WEIGHTS) if wanted < given else image

"""Augmentation with albumentations: the check of what the user wrote, and transforms whose randomness can be replayed.

Importing albumentations takes 0.7 s (more from a cold disk), so it happens where a pipeline is built, not above.
"""

import inspect
import os
import random
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tuneyard.trainers.data.batched_augment import BatchedAugmenter, batched_steps
from tuneyard.trainers.data.sample_order import philox
from tuneyard.trainers.errors import ConfigError, choose_from

Array = np.ndarray[Any, np.dtype[Any]]
Entry = str | dict[str, dict[str, Any]]

COMPOSITIONS = ("OneOf", "OneOrOther", "RandomOrder", "SelectiveChannelTransform", "Sequential", "SomeOf")
_BASES = ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D")
_REFUSED = {
    "Normalize": "data.normalize does it",
    "ToFloat": "data.normalize does it",
    "FromFloat": "images stay uint8",
    "ToTensorV2": "batches are made tensors anyway",
    "ToTensor3D": "batches are made tensors anyway",
    "Lambda": "its functions cannot be written in a file",
}
_DRY_RUNS = 8


def validate_transforms(entries: Sequence[Entry], path: str = "data.augment") -> None:
    """Raise ConfigError for an unknown transform or argument, or a value that the transform does not take."""
    _build(entries, path)


def check_pipeline(entries: Sequence[Entry], image_size: int, channels: int) -> None:
    """Run the pipeline on noise; ConfigError unless it keeps shape and type, and the same draw gives the same image."""
    image = np.random.Generator(philox(0, 0, "augment")).integers(
        0, 256, (image_size, image_size, channels), dtype=np.uint8
    )
    # Once as written, and once with every transform certain, so that a rare one shows its shape too.
    for certain in (False, True):
        augmenter = Augmenter(entries, seed=0, always=certain)
        for index in range(_DRY_RUNS):
            first = augmenter.rehearse(image, index)
            augmenter.rehearse(image, index + 1)
            if not np.array_equal(first, augmenter.rehearse(image, index)):
                raise ConfigError(
                    "data.augment: the same draw gave two different images, so a resumed run would not repeat itself. "
                    "Leave out the transform that keeps state, or draws on its own."
                )


def make_augmenter(entries: Sequence[Entry], seed: int, shape: tuple[int, int, int]) -> "AnyAugmenter | None":
    """What augments images of this shape [H, W, C]: on whole batches where every transform allows it, else one by one.

    None without transforms. The same entries always get the same kind, so a resumed run sees the images it would have.
    """
    if not entries:
        return None
    steps = batched_steps(_build(entries, "data.augment"), shape)
    return Augmenter(entries, seed) if steps is None else BatchedAugmenter(steps, seed)


class Augmenter:
    """The transforms, in order, with draws that are a function of (seed, epoch, sample index) alone.

    So neither the number of processes nor the place a run was resumed at changes an image. Pickles as its arguments.
    """

    def __init__(self, entries: Sequence[Entry], seed: int, always: bool = False) -> None:
        """`always` sets every probability to one; it is there for `check_pipeline`."""
        self._entries = list(entries)
        self._seed = seed
        self._always = always
        self._transforms = tuple(_build(entries, "data.augment"))
        # All transforms share these two, which is what makes a new draw cost 6 µs: Compose.set_random_seed makes two
        # new generators for each transform, 20 µs each.
        self._philox = philox(seed, 0, "augment")
        self._python = random.Random(seed)
        generator = np.random.Generator(self._philox)
        for transform in self._transforms:
            transform.set_random_state(generator, self._python)
            if always:
                _make_certain(transform)
        self._state = self._philox.state

    def __reduce__(self) -> "tuple[type[Augmenter], tuple[list[Entry], int, bool]]":
        return Augmenter, (self._entries, self._seed, self._always)

    def __call__(self, image: Array, epoch: int, index: int) -> Array:
        """Augment one image, uint8 [H, W, C], for this epoch; `index` is its position in the pool."""
        self._reseed(epoch, index)
        # Not through Compose: its checks of keys and shapes take as long again as the transforms.
        data = {"image": image}
        for transform in self._transforms:
            data = transform(**data)
        return self._kept(image, data["image"])

    def make(self, images: Array, epoch: int, indices: Array, out: Array) -> None:
        """Write the augmented images at these positions of the pool, uint8 [n, H, W, C], into `out` [b, H, W, C]."""
        for place, index in enumerate(indices.tolist()):
            # A copy: some transforms write into what they are given, and the pool must stay as it is.
            out[place] = self(images[index].copy(), epoch, index)

    def rehearse(self, image: Array, index: int) -> Array:
        """The same, slower, for a check before training: a transform that fails is named in a ConfigError."""
        self._reseed(0, index)
        data = {"image": image.copy()}
        for place, transform in enumerate(self._transforms):
            try:
                data = transform(**data)
            except Exception as error:
                # Transforms raise whatever they like; on an image as plain as this it can only be their arguments.
                needs = f"it needs {error}, which these images do not have" if isinstance(error, KeyError) else error
                name, size = type(transform).__name__, "x".join(str(length) for length in data["image"].shape)
                raise ConfigError(f"data.augment[{place}].{name} fails on an image of {size}: {needs}") from error
        return self._kept(image, data["image"])

    def _kept(self, image: Array, result: Array) -> Array:
        """The result, if it is still such an image as was given; some transforms drop a single channel's dimension."""
        if result.ndim == 2:
            result = result[:, :, np.newaxis]
        if result.shape != image.shape or result.dtype != np.uint8:
            raise ConfigError(
                f"data.augment made {result.dtype} {list(result.shape)} of uint8 {list(image.shape)}. Images must keep "
                "their size, channels and type: crop or resize back to data.image_size, and leave scaling to "
                "data.normalize."
            )
        return result

    def _reseed(self, epoch: int, index: int) -> None:
        # Philox counts in the first words and never reaches the third, so each sample has a stream of its own.
        inner: Any = self._state["state"]
        inner["key"][1] = epoch
        inner["counter"][2] = index
        self._philox.state = self._state
        self._python.seed(self._seed << 128 | epoch << 64 | index)


AnyAugmenter = Augmenter | BatchedAugmenter


def _make_certain(transform: Any) -> None:
    transform.p = 1.0
    for inner in getattr(transform, "transforms", ()):
        _make_certain(inner)


def _load_albumentations() -> ModuleType:
    # Otherwise the import asks the network for a newer version, and waits for the answer.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    library: ModuleType = albumentations
    return library


def _build(entries: Sequence[Entry], path: str) -> list[Any]:
    if not entries:
        return []
    library = _load_albumentations()
    return [_build_one(library, entry, f"{path}[{place}]") for place, entry in enumerate(entries)]


def _build_one(library: ModuleType, entry: Any, path: str) -> Any:
    name, arguments = _name_and_arguments(entry, path)
    if name in _REFUSED:
        raise ConfigError(f"{path}: {name} cannot be used here: {_REFUSED[name]}. Leave it out.")
    known = _transform_classes(library)
    if name not in known:
        raise ConfigError(choose_from(path, name, known))
    made = known[name]
    # albumentations only warns of an argument that it does not know, and goes on without it.
    allowed = [each for each in inspect.signature(made).parameters if each != "strict"]
    for argument in arguments:
        if argument not in allowed:
            raise ConfigError(choose_from(f"{path}.{name}.{argument}", argument, allowed))
    if name in COMPOSITIONS:
        return _build_composition(made, arguments, f"{path}.{name}")
    owner = next(base for base in made.__mro__ if "__init__" in vars(base))
    # Not strict, albumentations answers some wrong values with a warning and the defaults. A class without a schema
    # of its own hands its arguments to one that has one, and does not know the word.
    strict = {"strict": True} if "InitSchema" in vars(owner) else {}
    return _construct(made, arguments | strict, f"{path}.{name}")


def _name_and_arguments(entry: Any, path: str) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, dict) or len(entry) != 1:
        given = f"the keys {', '.join(map(str, entry))}" if isinstance(entry, dict) else repr(entry)
        raise ConfigError(f"{path} is {given}; give one transform each: `- HorizontalFlip: {{p: 0.5}}`.")
    ((name, arguments),) = entry.items()
    # `- HorizontalFlip:` with nothing behind it reads as None.
    if arguments is not None and not isinstance(arguments, dict):
        raise ConfigError(f"{path}.{name} is {arguments!r}; give its arguments by name: `{{p: 0.5}}`.")
    return str(name), dict(arguments or {})


def _transform_classes(library: ModuleType) -> dict[str, type]:
    found = {
        name: value
        for name, value in vars(library).items()
        if isinstance(value, type)
        and issubclass(value, library.BasicTransform)
        and name not in _BASES
        and not inspect.isabstract(value)
    }
    found = {name: value for name, value in found.items() if name not in _REFUSED}
    return found | {name: getattr(library, name) for name in COMPOSITIONS}


def _build_composition(made: type, arguments: dict[str, Any], path: str) -> Any:
    inner = arguments.get("transforms")
    if not isinstance(inner, list) or not inner:
        raise ConfigError(f"{path}.transforms is {inner!r}; give a list of transforms.")
    with warnings.catch_warnings():
        # Compositions check little, and warn where they go on with something else (SomeOf with n too large).
        warnings.simplefilter("error", UserWarning)
        return _construct(made, {**arguments, "transforms": _build(inner, f"{path}.transforms")}, path)


def _construct(made: type, arguments: dict[str, Any], path: str) -> Any:
    try:
        return made(**arguments)
    except (ValueError, TypeError, UserWarning, AttributeError, ZeroDivisionError) as error:
        if isinstance(error.__cause__, ValidationError):
            raise ConfigError("\n".join(_describe(fault, path) for fault in error.__cause__.errors())) from error
        raise ConfigError(f"{path}: {error}") from error


def _describe(fault: ErrorDetails, path: str) -> str:
    place = ".".join(str(step) for step in (path, *fault["loc"]))
    given = "" if fault["type"] == "missing" or not fault["loc"] else f"; given: {fault['input']!r}"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}{given}"

"""From labels as they stand in the data (names or whole numbers) to class indices and class names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneyard.trainers.errors import DataError, choose_from

Array = np.ndarray[Any, np.dtype[Any]]


def encode_labels(values: Array, classes: Sequence[str] | None, where: str) -> tuple[Array, tuple[str, ...]]:
    """Class indices, int64 [n], and the class names in order.

    With `classes`, a label is one of these names, or (where no name fits) a position among them. Without, the classes
    are the labels found, sorted: numbers by value, names by alphabet. `where` begins the text of a DataError.
    """
    if len(values) == 0:
        raise DataError(f"{where}: there are no labels.")
    cleaned = values if classes is not None and set(np.unique(values)) <= set(classes) else _clean(values, where)
    distinct, inverse = np.unique(cleaned, return_inverse=True)
    if classes is None:
        found = tuple(str(value) for value in distinct)
        if len(found) < 2:
            raise DataError(f"{where}: there is only one class, {found[0]!r}. Give samples of at least two classes.")
        return inverse.astype(np.int64), found
    positions = np.array([_position(value, classes, where) for value in distinct], dtype=np.int64)
    return positions[inverse], tuple(classes)


def _clean(values: Array, where: str) -> Array:
    """The labels as int64 or str; DataError for missing and fractional ones."""
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(values) | (values != np.rint(values)))
        if len(wrong):
            raise DataError(f"{where}: label {values[wrong[0]]} of sample {wrong[0]} is not a whole number.")
        return values.astype(np.int64)
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind != "U":
        raise DataError(f"{where}: labels of type {values.dtype} cannot be used. Give whole numbers, or names as text.")
    distinct = np.unique(values)
    for missing in ("", "nan", "NaN"):
        if missing in distinct:
            position = int(np.flatnonzero(values == missing)[0])
            raise DataError(f"{where}: sample {position} has no label ({missing!r}).")
    # Text that is all numbers sorts by value ("2" before "10"), and its fractions are mistakes, not class names;
    # but "007" is a name.
    numbers = [_as_number(str(text)) for text in distinct]
    if any(number is None for number in numbers) or any(text[0] == "0" and text[1:2].isdigit() for text in distinct):
        return values
    fractions = [str(text) for text, number in zip(distinct, numbers, strict=True) if number != int(number or 0)]
    if fractions:
        raise DataError(f"{where}: label {fractions[0]!r} is not a whole number. Give whole numbers, or names as text.")
    return values.astype(np.float64).astype(np.int64)


def _as_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _position(value: Any, classes: Sequence[str], where: str) -> int:
    name = str(value)
    if name in classes:
        return classes.index(name)
    if not isinstance(value, (int, np.integer)):
        raise DataError(f"{where}: {choose_from('Class', name, classes)}")
    if not 0 <= value < len(classes):
        raise DataError(
            f"{where}: label {value} is out of range: {len(classes)} classes are counted 0 to {len(classes) - 1}."
        )
    return int(value)

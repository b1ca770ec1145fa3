"""Labels as they stand in the data, to class indices."""

import numpy as np
import pytest

from tuneyard.trainers.data.labels import encode_labels
from tuneyard.trainers.errors import DataError


def test_names_are_sorted_by_alphabet() -> None:
    labels, classes = encode_labels(np.array(["dog", "cat", "dog"]), None, "here")
    assert classes == ("cat", "dog")
    assert labels.tolist() == [1, 0, 1]
    assert labels.dtype == np.int64


def test_numbers_in_text_are_sorted_by_value() -> None:
    labels, classes = encode_labels(np.array(["10", "2", "10"]), None, "here")
    assert classes == ("2", "10")
    assert labels.tolist() == [1, 0, 1]


def test_numbers_with_leading_zeros_are_names() -> None:
    assert encode_labels(np.array(["01", "1"]), None, "here")[1] == ("01", "1")


def test_given_classes_set_the_order_and_take_positions_too() -> None:
    assert encode_labels(np.array(["b", "a"]), ["b", "a"], "here")[0].tolist() == [0, 1]
    assert encode_labels(np.array([1, 0]), ["b", "a"], "here")[0].tolist() == [1, 0]


def test_a_number_that_is_a_class_name_is_not_a_position() -> None:
    assert encode_labels(np.array(["1", "0"]), ["1", "0"], "here")[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["aple", "pear"]), "'aple' is not known. Did you mean 'apple'"),
        (np.array([0, 2]), "label 2 is out of range: 2 classes are counted 0 to 1"),
        (np.array([0, -1]), "label -1 is out of range"),
        (np.array([0.5, 1.0]), "label 0.5 of sample 0 is not a whole number"),
        (np.array(["1.5", "1"]), "'1.5' is not a whole number"),
        (np.array(["apple", ""]), "sample 1 has no label"),
        (np.array(["apple", "nan"]), "sample 1 has no label"),
        (np.array([], dtype=int), "no labels"),
        (np.array([0j, 1j]), "complex128"),
    ],
)
def test_labels_that_fit_no_class(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"here: .*{message}"):
        encode_labels(values, ["apple", "pear"], "here")

"""What a space allows is what is drawn from it, and what was drawn is recognised again."""

import itertools
import json
from typing import Any

import pytest

from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.trainers.errors import ConfigError
from tuneyard.tune.search.plain_searchers import RandomSearcher
from tuneyard.tune.space import fits, grid

DRAWS = 200


def draw(kind: str, values: list[Any]) -> list[Any]:
    """What a random search makes of one domain."""
    space = {"x": Domain.model_validate({kind: values})}
    asked = [RandomSearcher(TuneConfig(seed=seed, space=space)).ask([]) for seed in range(DRAWS)]
    return [point["x"] for point in asked if point is not None]


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("uniform", -1.0, 2.5), ("loguniform", 1e-5, 1e-1), ("randint", 3, 7)],
)
def test_a_range_is_drawn_from_its_low_to_its_high_end(kind: str, low: float, high: float) -> None:
    drawn = draw(kind, [low, high])
    assert all(low <= value <= high for value in drawn)
    assert len(set(drawn)) > 3


def test_a_whole_number_may_be_either_end_of_its_range() -> None:
    assert set(draw("randint", [1, 3])) == {1, 2, 3}


@pytest.mark.parametrize(
    ("kind", "values", "allowed"),
    [
        ("quniform", [0.0, 0.3, 0.1], [0.0, 0.1, 0.2, 0.3]),
        ("quniform", [0.0, 1.0, 0.3], [0.0, 0.3, 0.6, 0.9]),
        ("qloguniform", [1.0, 10.0, 4.0], [1.0, 5.0, 9.0]),
        ("qloguniform", [0.5, 2.0, 0.5], [0.5, 1.0, 1.5, 2.0]),
        ("qrandint", [16, 64, 16], [16, 32, 48, 64]),
        ("qrandint", [1, 10, 4], [1, 5, 9]),
    ],
)
def test_a_quantized_range_is_its_low_end_and_whole_steps_from_there(
    kind: str, values: list[Any], allowed: list[float]
) -> None:
    drawn = sorted(set(draw(kind, values)))
    assert drawn == allowed
    assert [point["x"] for point in grid({"x": Domain.model_validate({kind: values})})] == allowed


@pytest.mark.parametrize(("kind", "values"), [("randint", [1, 9]), ("qrandint", [8, 64, 8])])
def test_whole_numbers_stay_whole_numbers(kind: str, values: list[Any]) -> None:
    points = [point["x"] for point in grid({"x": Domain.model_validate({kind: values})})]
    assert {type(value) for value in draw(kind, values) + points} == {int}


def test_a_logarithmic_range_is_drawn_evenly_over_its_decades() -> None:
    drawn = draw("loguniform", [1e-4, 1.0])
    below = sum(value < 1e-2 for value in drawn)
    assert 0.35 * DRAWS < below < 0.65 * DRAWS


def test_choices_may_be_lists_mappings_and_nothing() -> None:
    choices = [None, [], [{"HorizontalFlip": {"p": 0.5}}], {"width": 8}, "a", 3]
    drawn = draw("choice", choices)
    assert all(choice in drawn for choice in choices)
    assert all(value in choices for value in drawn)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uniform", [0.0, 1.0]),
        ("loguniform", [1e-4, 1e-1]),
        ("quniform", [0.0, 1.0, 0.3]),
        ("qloguniform", [1.0, 100.0, 7.0]),
        ("randint", [1, 9]),
        ("qrandint", [8, 64, 8]),
        ("choice", [[1, 2], {"a": 1}, None, "x"]),
        # Python holds these for equal; the experiment does not.
        ("choice", [1, 1.0, True, "1"]),
    ],
)
def test_overrides_read_back_from_a_record_fit_the_space_they_were_drawn_from(kind: str, values: list[Any]) -> None:
    for value in draw(kind, values)[:40]:
        assert fits({"x": Domain.model_validate({kind: values})}, json.loads(json.dumps({"x": value})))


def test_python_holds_one_and_true_for_equal_and_the_space_does_not() -> None:
    assert not fits({"x": Domain(choice=[1, "1"])}, {"x": True})


@pytest.mark.parametrize("value", [2.5, -0.1, "0.5", True, None, [0.5]])
def test_a_value_outside_its_range_is_not_of_this_space(value: Any) -> None:
    assert not fits({"x": Domain(uniform=[0.0, 1.0])}, {"x": value})


def test_a_choice_that_is_gone_or_a_key_that_is_new_is_not_of_this_space() -> None:
    space = {"x": Domain(choice=["a", "b"])}
    assert not fits(space, {"x": "c"})
    assert not fits(space, {})


def test_a_key_whose_condition_is_not_met_need_not_be_there() -> None:
    space = {"x": Domain(choice=["a", "b"]), "y": Domain(uniform=[0.0, 1.0], when={"x": "a"})}
    assert fits(space, {"x": "b"})
    assert not fits(space, {"x": "a"})


def test_a_grid_is_every_combination_and_the_last_key_varies_fastest() -> None:
    space = {
        "a": Domain(choice=["x", "y"]),
        "b": Domain(randint=[1, 3]),
        "c": Domain(quniform=[0.0, 0.5, 0.5]),
    }
    points = grid(space)
    assert [tuple(point.values()) for point in points] == list(itertools.product(["x", "y"], [1, 2, 3], [0.0, 0.5]))
    assert list(points[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_there_is_no_grid_over_a_range_without_steps(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"tune\.space\.x: {kind} has no end of values"):
        grid({"x": Domain.model_validate({kind: [0.1, 1.0]})})

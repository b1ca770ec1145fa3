"""Results made by a thread beside their use."""

import threading
import time

import pytest

from tuneyard.trainers.data.ahead import made_ahead


def test_results_come_in_order() -> None:
    assert list(made_ahead(lambda number: number * number, range(20))) == [number * number for number in range(20)]


def test_no_more_is_made_than_the_depth_says() -> None:
    made: list[int] = []
    results = made_ahead(made.append, range(20), depth=2)
    next(results)
    deadline = time.monotonic() + 5.0
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2]


def test_an_error_comes_where_its_result_would_have_come() -> None:
    results = made_ahead(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_thread_and_makes_nothing_more() -> None:
    made: list[int] = []
    results = made_ahead(made.append, range(100), depth=50)
    next(results)
    results.close()
    count = len(made)
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
    assert len(made) == count < 100

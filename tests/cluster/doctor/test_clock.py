"""Offsets of clocks, and how sure they are."""

from email.utils import formatdate

import pytest

from tuneyard.cluster.doctor.clock import Offset, judge_nodes, judge_server, offset_of, offset_of_date, surest
from tuneyard.cluster.doctor.findings import Result


@pytest.mark.parametrize("ahead_s", [-90.0, 0.0, 3.5])
@pytest.mark.parametrize("there_s", [0.0, 0.01, 0.04])
def test_the_truth_is_within_the_bound(ahead_s: float, there_s: float) -> None:
    """Of 40 ms under way, `there_s` were spent on the way there and the rest on the way back."""
    sent = 1000.0
    received = sent + there_s + ahead_s
    answered = received + 0.5
    back = sent + 0.04 + 0.5
    found = offset_of(sent, received, answered, back)
    assert found.bound_s == pytest.approx(0.02)
    assert abs(found.offset_s - ahead_s) <= found.bound_s + 1e-9


def test_the_surest_measurement_is_the_one_that_waited_least() -> None:
    assert surest([Offset(0.3, 0.2), Offset(0.1, 0.01), Offset(0.9, 0.5)]) == Offset(0.1, 0.01)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.999])
def test_a_date_header_bounds_the_offset_to_its_second(fraction: float) -> None:
    now = 1_800_000_000.0 + fraction
    found = offset_of_date(formatdate(now + 60.0, usegmt=True), now - 0.1, now + 0.1)
    assert found.bound_s == pytest.approx(0.6)
    assert abs(found.offset_s - 60.0) <= found.bound_s


def test_what_is_no_date_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        offset_of_date("yesterday", 0.0, 1.0)


@pytest.mark.parametrize(
    ("offset", "result"),
    [(Offset(0.3, 0.1), Result.OK), (Offset(4.0, 3.5), Result.OK), (Offset(4.0, 0.1), Result.WARNING),
     (Offset(-400.0, 0.1), Result.FAILURE)],
)  # fmt: skip
def test_nodes(offset: Offset, result: Result) -> None:
    found = judge_nodes({("head", "w1"): Offset(0.0, 0.001), ("head", "w2"): offset})
    assert found.result is result


def test_the_node_that_is_ahead_is_named() -> None:
    assert judge_nodes({("head", "w2"): Offset(4.0, 0.1)}).found.startswith("w2 is ahead of head by 4 s")
    assert judge_nodes({("head", "w2"): Offset(-4.0, 0.1)}).found.startswith("head is ahead of w2 by 4 s")


@pytest.mark.parametrize(
    ("offset_s", "result", "told"),
    [
        (0.4, Result.OK, "within 1 s"),
        (-90.0, Result.WARNING, "90 s ahead of"),
        (1200.0, Result.FAILURE, "20 min behind"),
    ],
)
def test_the_server(offset_s: float, result: Result, told: str) -> None:
    found = judge_server("S3: clock", Offset(offset_s, 0.6))
    assert found.result is result
    assert told in found.found

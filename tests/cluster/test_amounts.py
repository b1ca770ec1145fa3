import pytest

from tuneyard.cluster.amounts import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 m 00 s"),
        (185.0, "3 m 05 s"),
        (3599.6, "1 h 00 m"),
        (7260.0, "2 h 01 m"),
    ],
)
def test_durations_are_rounded_to_what_matters(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text

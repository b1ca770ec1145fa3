"""What a run refuses before it trains."""

import pytest

from tuneyard.trainers.errors import DataError
from tuneyard.trainers.run import check_same_data


def test_workers_must_see_the_same_data() -> None:
    check_same_data(["a"])
    check_same_data(["a", "a"])
    with pytest.raises(DataError, match=r"Worker 2 sees other data than worker 0\..*start again"):
        check_same_data(["a", "a", "b"])

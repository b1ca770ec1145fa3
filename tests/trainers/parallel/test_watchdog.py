"""When workers hang, and when they only take their time."""

from dataclasses import dataclass

import pytest

from tuneyard.trainers.parallel.board import Phase, Place
from tuneyard.trainers.parallel.watchdog import Watchdog


@dataclass
class Fake:
    """A worker's process."""

    still: bool = False
    used_s: float = 1.0

    def stopped(self) -> bool:
        return self.still

    def cpu_s(self) -> float:
        return self.used_s


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """Two workers and a watchdog with eight seconds of patience, which looks every second."""

    def __init__(self) -> None:
        self.clock, self.workers = Clock(), [Fake(), Fake()]
        self.watchdog = Watchdog(8.0, self.clock)

    def look(self, phase: Phase, step: int) -> list[int]:
        self.clock.now += 1.0
        place = Place(1, phase, 0, step, 1, step)
        return self.watchdog.look([place, place], self.workers)


def test_steps_that_do_not_come_are_a_hang_of_all() -> None:
    watch = Watch()
    assert all(watch.look(Phase.STEPPING, step) == [] for step in range(20))
    assert [watch.look(Phase.STEPPING, 19) for _ in range(8)] == [[]] * 7 + [[0, 1]]


def test_work_between_the_steps_is_no_hang_and_idleness_is() -> None:
    watch = Watch()
    for _ in range(30):
        watch.workers[1].used_s += 0.1
        assert watch.look(Phase.BETWEEN, 8) == []
    assert [0, 1] in [watch.look(Phase.BETWEEN, 8) for _ in range(9)]


@pytest.mark.parametrize("phase", list(Phase))
def test_a_worker_that_stands_still_is_found_whatever_it_was_at(phase: Phase) -> None:
    watch = Watch()
    watch.workers[1].still = True
    found = [watch.look(phase, step) for step in range(8)]
    assert found == [[]] * 7 + [[1]]


def test_the_last_upload_may_take_any_time() -> None:
    watch = Watch()
    assert all(watch.look(Phase.ENDING, 8) == [] for _ in range(100))


def test_time_in_which_nobody_looked_does_not_count() -> None:
    watch = Watch()
    watch.look(Phase.STEPPING, 8)
    watch.clock.now += 3600.0
    assert watch.look(Phase.STEPPING, 8) == []

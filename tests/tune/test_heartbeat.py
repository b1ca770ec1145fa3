"""Whose process stands still, and whose only takes its time."""

from tuneyard.tune.heartbeat import Pulses


class Beats:
    """Two actors, looked at every second, by one who has eight seconds of patience."""

    def __init__(self) -> None:
        self.now = 100.0
        self.beats: dict[str, int] = {}
        self.pulses = Pulses(8.0, self.beat_of, lambda: self.now)

    def beat_of(self, actor: str) -> bytes | None:
        return str(self.beats[actor]).encode() if actor in self.beats else None

    def look(self, *beating: str) -> list[str]:
        """After a second in which these have beaten."""
        self.now += 1.0
        for actor in beating:
            self.beats[actor] = self.beats.get(actor, 0) + 1
        assert self.pulses.due()
        return self.pulses.look(["one", "other"])


def test_who_stops_beating_is_found_and_the_other_is_not() -> None:
    beats = Beats()
    assert all(beats.look("one", "other") == [] for _ in range(20))
    assert [beats.look("one") for _ in range(8)] == [[]] * 7 + [["other"]]


def test_a_beat_now_and_then_is_enough() -> None:
    beats = Beats()
    beats.look("one", "other")
    assert all(beats.look(*(["one", "other"] if number % 7 == 0 else [])) == [] for number in range(50))


def test_who_has_never_beaten_is_still_starting() -> None:
    beats = Beats()
    assert all(beats.look("one") == [] for _ in range(50))


def test_time_in_which_nobody_looked_does_not_count() -> None:
    beats = Beats()
    beats.look("one", "other")
    beats.now += 3600.0
    assert beats.look() == []

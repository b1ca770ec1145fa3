"""Who is asked to leave, who is ended for not having left, and what becomes of the processes that are kept."""

from collections.abc import Collection, Mapping

import pytest

from tuneyard.tune.departures import LOOK_S, Departures, Process

SAVING_S = 95.0


class Ray:
    """A cluster of three nodes a, b and c, in which time passes when it is told to."""

    def __init__(self, *processes: Process) -> None:
        self.now = 1000.0
        self.taken: dict[str, float | None] = {}
        self.there = list(processes)
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.dropped = 0
        self.departures = Departures(self._leave, SAVING_S, self._words, lambda: self.now)

    def draining(self) -> Mapping[str, float | None]:
        return {node: None if until is None else until - self.now for node, until in self.taken.items()}

    def processes(self) -> list[Process]:
        return self.there

    def drop_kept(self) -> None:
        self.dropped += 1

    def end(self, process: Process) -> None:
        self.ended.append(process.actor_id)

    def wait(self, seconds: float = LOOK_S) -> None:
        self.now += seconds
        self.departures.look(self)

    def _leave(self, actors: Collection[str]) -> None:
        self.asked = sorted(actors)

    def _words(self, run_id: str, machine_s: float | None) -> str:
        return f"{run_id} had {machine_s}"


def process(run_id: str | None, nodes: str, *, started: bool = True) -> Process:
    return Process(run_id, None, f"{run_id}@{nodes}", started, frozenset(nodes))


def test_all_with_a_worker_on_the_machine_are_asked_and_nobody_else() -> None:
    ray = Ray(process("1", "a"), process("2", "ab"), process("3", "c"))
    ray.taken = {"b": None}
    ray.wait()
    assert ray.asked == ["2@ab"]
    assert [ray.departures.drained(run_id) for run_id in "123"] == [False, True, False]
    assert ray.departures.draining == {"b"}


def test_who_leaves_in_time_is_left_alone() -> None:
    ray = Ray(process("1", "a"))
    ray.taken = {"a": None}
    ray.wait()
    ray.there = []
    ray.departures.left("1")
    ray.wait(1000.0)
    assert ray.ended == []
    assert not ray.departures.drained("1")


def test_who_is_late_is_ended_once_and_its_last_words_are_kept() -> None:
    ray = Ray(process("1", "a"))
    ray.taken = {"a": None}
    ray.wait()
    ray.wait(SAVING_S - 1.0)
    assert ray.ended == []
    ray.wait(2.0)
    ray.wait()
    assert ray.ended == ["1@a"]
    assert ray.departures.late("1") == "1 had None"


@pytest.mark.parametrize(("machine_s", "ended_after_s"), [(20.0, 20.0), (3600.0, SAVING_S)])
def test_the_machines_time_counts_where_it_is_shorter(machine_s: float, ended_after_s: float) -> None:
    ray = Ray(process("1", "a"))
    ray.taken = {"a": ray.now + LOOK_S + machine_s}
    ray.wait()
    ray.wait(ended_after_s - 1.0)
    assert ray.ended == []
    ray.wait(1.5)
    assert ray.ended == ["1@a"]


def test_a_notice_with_a_time_counts_also_where_the_node_was_drained_before() -> None:
    ray = Ray(process("1", "a"))
    ray.taken = {"a": None}
    ray.wait()
    ray.taken = {"a": ray.now + 10.0}
    ray.wait()
    ray.wait(10.0)
    assert ray.ended == ["1@a"]
    assert (ray.departures.late("1") or "").startswith("1 had 9.5")


def test_what_has_not_started_is_not_waited_for() -> None:
    ray = Ray(process("1", "a", started=False))
    ray.taken = {"a": None}
    ray.wait()
    assert ray.ended == ["1@a"]
    assert ray.departures.late("1") is None


def test_processes_that_are_kept_there_are_let_go() -> None:
    ray = Ray(process(None, "a"), process(None, "b"))
    ray.taken = {"c": None}
    ray.wait()
    assert ray.dropped == 0
    ray.taken = {"b": None}
    ray.wait()
    assert ray.dropped == 1


def test_a_leg_that_comes_to_a_machine_which_is_taken_already_is_asked_as_well() -> None:
    ray = Ray()
    ray.taken = {"a": None}
    ray.wait()
    ray.there = [process("1", "a")]
    ray.wait()
    assert ray.asked == ["1@a"]


def test_when_all_are_to_stop_the_late_ones_are_ended() -> None:
    ray = Ray(process("1", "a"), process("2", "b"))
    ray.wait()
    ray.departures.stop()
    ray.wait(SAVING_S - 1.0)
    assert ray.ended == []
    ray.there = ray.there[:1]
    ray.wait(2.0)
    assert ray.ended == ["1@a"]
    assert ray.departures.late("1") == "1 had None"
    assert ray.departures.late("2") is None


def test_it_looks_twice_a_second_however_often_it_is_called() -> None:
    ray = Ray(process("1", "a"))
    ray.wait()
    ray.taken = {"a": None}
    ray.wait(LOOK_S / 2)
    assert ray.asked == []
    ray.wait(LOOK_S / 2)
    assert ray.asked == ["1@a"]

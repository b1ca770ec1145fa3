"""What every searcher keeps to: points of the space, the same ones again from the same trials, none twice."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.trainers.errors import ConfigError
from tuneyard.tune.search.build_searcher import build_searcher
from tuneyard.tune.search.searcher import Searcher, Tried

NUMBERS = {"x": Domain(uniform=[0.0, 1.0]), "y": Domain(loguniform=[1e-4, 1.0]), "z": Domain(choice=["a", "b", "c"])}
NESTED = NUMBERS | {
    "m": Domain(uniform=[0.0, 1.0], when={"z": ["a", "b"]}),
    "n": Domain(randint=[1, 3], when={"z": "b"}),
}
SMALL = {"x": Domain(choice=[1, 2, 3]), "y": Domain(choice=["a", "b"])}
HERE = Path()


def config(search: str = "tpe", space: Any = None, **more: Any) -> TuneConfig:
    return TuneConfig(search=search, space=space or NUMBERS, **{"trials": 20, **more})


def score(point: dict[str, Any]) -> float:
    """A hill at x 0.7, y 0.01, choice b; its top is 1."""
    distance: float = (point["x"] - 0.7) ** 2 + (math.log10(point["y"]) + 2) ** 2 / 4
    return 1.0 - distance - (0.0 if point["z"] == "b" else 0.5)


def finished(point: dict[str, Any], value: float) -> Tried:
    return Tried(point, (value,), "completed")


def sweep(searcher: Searcher, count: int, sign: float = 1.0) -> list[Tried]:
    trials: list[Tried] = []
    for _ in range(count):
        point = searcher.ask(trials)
        if point is None:
            break
        trials.append(finished(point, sign * score(point) if "z" in point else 0.0))
    return trials


def points(trials: list[Tried]) -> list[dict[str, Any]]:
    return [trial.overrides for trial in trials]


@pytest.mark.parametrize(("search", "count"), [("random", 12), ("tpe", 16), ("gp", 6), ("cmaes", 24)])
def test_a_searcher_made_anew_asks_what_the_old_one_would_have_asked(search: str, count: int) -> None:
    trials = sweep(build_searcher(config(search), HERE), count)
    for known in (0, count - 1):
        assert build_searcher(config(search), HERE).ask(trials[:known]) == trials[known].overrides


@pytest.mark.parametrize("search", ["random", "tpe", "cmaes"])
def test_another_seed_draws_other_points(search: str) -> None:
    drawn = [points(sweep(build_searcher(config(search, seed=seed), HERE), 4)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(("search", "median"), [("tpe", 0.97), ("cmaes", 0.9)])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_searcher_learns_from_what_it_is_told(search: str, median: float, mode: str) -> None:
    sign = 1.0 if mode == "max" else -1.0
    best = []
    for seed in range(5):
        settings = config(search, seed=seed, trials=60, mode=mode)
        best.append(max(sign * trial.values[0] for trial in sweep(build_searcher(settings, HERE), 60, sign)))
    assert statistics.median(best) > median


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_key_is_asked_for_exactly_where_it_counts(search: str) -> None:
    for point in points(sweep(build_searcher(config(search, NESTED), HERE), 30)):
        assert ("m" in point) == (point["z"] != "c")
        assert ("n" in point) == (point["z"] == "b")


def test_the_gaussian_process_searches_a_space_with_conditions() -> None:
    trials = sweep(build_searcher(config("random", NESTED), HERE), 6)
    point = build_searcher(config("gp", NESTED), HERE).ask(trials)
    assert point is not None
    assert ("n" in point) == (point["z"] == "b")


@pytest.mark.parametrize("search", ["random", "tpe", "grid"])
def test_a_small_space_is_tried_whole_without_a_point_twice_and_then_there_is_nothing_left(search: str) -> None:
    trials = sweep(build_searcher(config(search, SMALL), HERE), 99)
    assert len(trials) == 6
    assert len({tuple(point.items()) for point in points(trials)}) == 6


def test_a_grid_with_conditions_has_no_point_twice() -> None:
    space = {"momentum": Domain(choice=[0.5, 0.9], when={"name": "sgd"}), "name": Domain(choice=["sgd", "adamw"])}
    assert points(sweep(build_searcher(config("grid", space), HERE), 99)) == [
        {"name": "adamw"},
        {"momentum": 0.5, "name": "sgd"},
        {"momentum": 0.9, "name": "sgd"},
    ]


@pytest.mark.parametrize("search", ["random", "tpe", "cmaes"])
def test_the_users_points_are_tried_first_and_their_missing_keys_are_drawn(search: str) -> None:
    given = [{"x": 0.25, "y": 0.01, "z": "c"}, {"z": "b"}]
    trials = sweep(build_searcher(config(search, points=given), HERE), 3)
    assert trials[0].overrides == given[0]
    assert trials[1].overrides["z"] == "b"
    assert set(trials[1].overrides) == {"x", "y", "z"}
    assert trials[2].overrides not in points(trials[:2])


def test_a_point_whose_parent_is_left_out_is_tried_once_beside_a_parent_that_lets_it_count() -> None:
    trials = sweep(build_searcher(config("random", NESTED, points=[{"m": 0.5, "n": 2}]), HERE), 2)
    assert (trials[0].overrides["z"], trials[0].overrides["m"], trials[0].overrides["n"]) == ("b", 0.5, 2)
    assert trials[1].overrides.get("m") != 0.5


def test_a_grid_tries_every_value_of_a_key_that_a_point_leaves_out() -> None:
    trials = sweep(build_searcher(config("grid", SMALL, points=[{"x": 3}]), HERE), 99)
    assert points(trials)[:3] == [{"x": 3, "y": "a"}, {"x": 3, "y": "b"}, {"x": 1, "y": "a"}]
    assert len(trials) == 6


def test_earlier_trials_teach_tpe_and_those_outside_the_space_are_passed_over() -> None:
    drawn = sweep(build_searcher(config("random", seed=5), HERE), 30)
    outside = [Tried({"x": 5.0, "y": 0.1, "z": "a"}, (9.0,), "completed"), Tried({"x": 0.1}, (9.0,), "completed")]
    new = points(sweep_after(build_searcher(config("tpe", trials=40), HERE), outside + drawn, 8))
    before = statistics.mean(score(point) for point in points(drawn))
    assert statistics.mean(score(point) for point in new) > before + 0.2


def sweep_after(searcher: Searcher, trials: list[Tried], count: int) -> list[Tried]:
    trials = list(trials)
    for _ in range(count):
        point = searcher.ask(trials)
        assert point is not None
        trials.append(finished(point, score(point)))
    return trials[-count:]


def test_tpe_leaves_the_neighbourhood_of_a_trial_that_is_still_running_or_has_failed() -> None:
    space = {"x": Domain(uniform=[0.0, 1.0])}
    trials = [finished({"x": place / 20}, -abs(place / 20 - 0.5)) for place in range(20)]

    def near(more: list[Tried]) -> float:
        asked = [build_searcher(config("tpe", space, seed=seed), HERE).ask(trials + more) for seed in range(40)]
        return float(statistics.mean(abs(point["x"] - 0.5) for point in asked if point is not None))

    for status in ("running", "failed"):
        others = [Tried({"x": 0.5}, (), status) for _ in range(4)]
        outside = [Tried({"x": 9.0}, (), "running") for _ in range(4)]
        assert near(others) > near(outside)


def test_several_objectives_pull_towards_all_of_the_front() -> None:
    """Two losses that want x at 0 and at 1, and nobody wants y: points of the front have a low y."""
    space = {"x": Domain(uniform=[0.0, 1.0]), "y": Domain(uniform=[0.0, 1.0])}
    settings = config("tpe", space, trials=60, mode="min", objectives={"other": "max"})
    searcher = build_searcher(settings, HERE)
    trials: list[Tried] = []
    for _ in range(60):
        point = searcher.ask(trials)
        assert point is not None
        both = (point["x"] + point["y"], point["x"] - point["y"])
        trials.append(Tried(point, both[:1], "completed", both))
    late = points(trials[30:])
    assert statistics.mean(point["y"] for point in late) < 0.25
    assert min(point["x"] for point in late) < 0.3
    assert max(point["x"] for point in late) > 0.7


def test_a_trial_is_judged_by_the_values_of_those_that_went_further() -> None:
    """The trial stopped at its first epoch stands below its peers, though its one value is better than their first."""
    space = {"x": Domain(uniform=[0.0, 1.0])}
    good = [Tried({"x": 0.8 + place / 100}, (0.1, 0.9), "completed") for place in range(8)]
    poor = [Tried({"x": 0.2 + place / 100}, (0.12, 0.2), "stopped") for place in range(30)]
    asked = [build_searcher(config("tpe", space, seed=seed), HERE).ask(good + poor) for seed in range(20)]
    assert statistics.median(point["x"] for point in asked if point is not None) > 0.6


OWN = """
class Own:
    def __init__(self, config):
        self.config = config
    def ask(self, trials):
        answer = ANSWER
        return answer
"""


def own(folder: Path, answer: str) -> Searcher:
    (folder / "task.py").write_text(OWN.replace("ANSWER", answer))
    return build_searcher(config("task.py:Own", SMALL), folder)


def test_the_users_own_searcher_is_asked(tmp_path: Path) -> None:
    searcher = own(tmp_path, "{'x': 1, 'y': 'b'} if len(trials) < self.config.trials else None")
    assert searcher.ask([]) == {"x": 1, "y": "b"}
    assert searcher.ask([Tried({})] * 20) is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{'x': 7, 'y': 'b'}", "x: given 7; allowed: 1, 2, 3"),
        ("{'x': 1}", "y: missing"),
        ("{'x': 1, 'y': 'b', 'zz': 1}", "zz: unknown key"),
        ("[1]", r"asked for \[1\]; allowed: a dict"),
        ("trials[5]", "task.py:Own failed: IndexError: list index out of range"),
    ],
)
def test_a_wrong_answer_of_the_users_own_searcher_is_told(answer: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        own(tmp_path, answer).ask([])


def test_an_unknown_search_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'tpee' is not known\. Did you mean 'tpe'"):
        build_searcher(config("tpee"), HERE)

"""What is tried next: reproducible, better than chance, and undisturbed by trials that fail or are stopped."""

import math
import statistics
from typing import Any, Literal

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tuneyard.trainers.experiment import Domain, TuneConfig
from tuneyard.tune.search import Finished, GridStrategy, OptunaStrategy, Strategy, SweepSearcher, build_strategy

Search = Literal["random", "grid", "tpe"]
SPACE = {"x": Domain(uniform=[0.0, 1.0]), "y": Domain(loguniform=[1e-4, 1.0]), "z": Domain(choice=["a", "b", "c"])}
CHOICES = {"x": Domain(choice=[1, 2, 3]), "y": Domain(choice=["a", "b"])}
METRIC = "val/accuracy"


def config(
    search: Search = "tpe", *, seed: int = 0, trials: int = 20, space: Any = None, mode: Any = "max"
) -> TuneConfig:
    return TuneConfig(search=search, seed=seed, trials=trials, space=space or SPACE, mode=mode)


def score(point: dict[str, Any]) -> float:
    """A hill at x 0.7, y 0.01, choice b; its top is 1."""
    distance: float = (point["x"] - 0.7) ** 2 + (math.log10(point["y"]) + 2) ** 2 / 4
    return 1.0 - distance - (0.0 if point["z"] == "b" else 0.5)


def best_of_sweep(settings: TuneConfig) -> float:
    strategy = OptunaStrategy(settings)
    values = []
    for _ in range(settings.trials):
        number, point = strategy.ask()
        values.append(score(point) if settings.mode == "max" else -score(point))
        strategy.tell(number, TrialState.COMPLETE, values[-1])
    return max(values) if settings.mode == "max" else -min(values)


def points(strategy: Strategy, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        asked = strategy.ask()
        if asked is None:
            break
        found.append(asked[1])
        strategy.tell(asked[0], TrialState.FAIL, None)
    return found


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_seed_draws_the_same_points_again_and_another_seed_others(search: Search) -> None:
    first = points(build_strategy(config(search)), 8)
    assert points(build_strategy(config(search)), 8) == first
    assert points(build_strategy(config(search, seed=1)), 8) != first


@pytest.mark.parametrize("mode", ["max", "min"])
def test_tpe_learns_from_what_it_is_told(mode: str) -> None:
    seeds = range(7)
    tpe = statistics.median(best_of_sweep(config("tpe", seed=seed, trials=30, mode=mode)) for seed in seeds)
    chance = statistics.median(best_of_sweep(config("random", seed=seed, trials=30, mode=mode)) for seed in seeds)
    assert tpe > chance
    assert tpe > 0.97


def test_a_resumed_random_search_goes_on_where_it_was_cut_short() -> None:
    whole = points(build_strategy(config("random")), 8)
    resumed = build_strategy(config("random"), drawn=3)
    resumed.learn([Finished(point, [0.5]) for point in whole[:3]])
    assert points(resumed, 5) == whole[3:]


def test_a_resumed_tpe_does_not_draw_its_first_points_again() -> None:
    first = points(build_strategy(config("tpe")), 2)
    resumed = build_strategy(config("tpe"), drawn=2)
    resumed.learn([Finished(point, [0.5]) for point in first])
    assert not [point for point in points(resumed, 3) if point in first]


def test_tpe_learns_from_earlier_trials() -> None:
    """Thirty trials of before say where the hill is: the first new points are nearer to it than chance is."""
    drawn = points(build_strategy(config("random", seed=5)), 30)
    strategy = build_strategy(config("tpe", trials=40), drawn=30)
    strategy.learn([Finished(point, [score(point)]) for point in drawn])
    found = statistics.mean(score(point) for point in points(strategy, 8))
    assert found > statistics.mean(score(point) for point in drawn) + 0.2


def test_earlier_trials_without_a_value_or_outside_the_space_are_passed_over() -> None:
    strategy = build_strategy(config("random"))
    strategy.learn([Finished({"x": 5.0, "y": 0.1, "z": "a"}, [0.9]), Finished({"x": 0.5, "y": 0.1, "z": "a"})])
    assert len(points(strategy, 2)) == 2


def test_a_grid_gives_each_point_once_and_then_nothing() -> None:
    found = points(build_strategy(config("grid", space=CHOICES)), 99)
    assert [tuple(point.values()) for point in found] == [(x, y) for x in (1, 2, 3) for y in ("a", "b")]


def test_a_grid_has_at_most_as_many_points_as_there_are_trials() -> None:
    assert len(points(build_strategy(config("grid", space=CHOICES, trials=4)), 99)) == 4


def test_a_resumed_grid_leaves_out_every_point_that_was_tried_also_the_failed_ones() -> None:
    tried = [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]
    strategy = GridStrategy(config("grid", space=CHOICES))
    strategy.learn([Finished(tried[0], [0.5]), Finished(tried[1])])
    left = points(strategy, 99)
    assert len(left) == 4
    assert not [point for point in left if point in tried]


class Recorded:
    """A strategy that counts upwards and remembers what it is told."""

    def __init__(self, end: int = 99) -> None:
        self.asked, self.end = 0, end
        self.reports: list[tuple[int, int, float]] = []
        self.told: list[tuple[int, TrialState, float | None]] = []

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        if self.asked == self.end:
            return None
        self.asked += 1
        return self.asked - 1, {"x": self.asked - 1}

    def report(self, number: int, epoch: int, value: float) -> None:
        self.reports.append((number, epoch, value))

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        self.told.append((number, state, value))

    def learn(self, earlier: Any) -> None:
        raise AssertionError("the driver does that")


def make_config(run_id: str, overrides: dict[str, Any], resume: bool) -> dict[str, Any]:
    return {"run_id": run_id, "overrides": overrides, "resume": resume}


def searcher(
    strategy: Strategy, *, mode: Any = "max", resumed: Any = (), first: int = 1, new: int = 5
) -> SweepSearcher:
    settings = config(space=CHOICES, mode=mode)
    return SweepSearcher(settings, strategy, make_config, resumed, first_number=first, new_trials=new)


def row(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, METRIC: value, **more}


def test_cut_short_trials_come_first_and_keep_their_ids_then_new_ones_until_there_are_enough() -> None:
    handed = searcher(Recorded(), resumed=[("0002", {"x": 7}), ("0004", {"x": 8})], first=5, new=2)
    configs = [handed.suggest(f"ray-{number}") for number in range(4)]
    assert configs == [
        {"run_id": "0002", "overrides": {"x": 7}, "resume": True},
        {"run_id": "0004", "overrides": {"x": 8}, "resume": True},
        {"run_id": "0005", "overrides": {"x": 0}, "resume": False},
        {"run_id": "0006", "overrides": {"x": 1}, "resume": False},
    ]
    assert handed.suggest("ray-4") == Searcher.FINISHED


def test_there_are_no_more_trials_than_the_strategy_has_points() -> None:
    handed = searcher(Recorded(end=1))
    assert isinstance(handed.suggest("a"), dict)
    assert handed.suggest("b") == Searcher.FINISHED


def test_a_stopped_sweep_hands_out_nothing_more() -> None:
    handed = searcher(Recorded(), resumed=[("0001", {"x": 7})])
    handed.stop()
    assert handed.suggest("a") == Searcher.FINISHED


def test_a_finished_trial_is_told_with_its_best_value_not_its_last() -> None:
    strategy = Recorded()
    handed = searcher(strategy)
    handed.suggest("a")
    handed.on_trial_result("a", row(1, 0.5))
    handed.on_trial_result("a", row(2, 0.9))
    handed.on_trial_complete("a", row(3, 0.7, finished=True))
    assert strategy.told == [(0, TrialState.COMPLETE, 0.9)]
    assert strategy.reports == [(0, 1, 0.5), (0, 2, 0.9), (0, 3, 0.9)]


def test_with_mode_min_the_best_value_is_the_lowest() -> None:
    strategy = Recorded()
    handed = searcher(strategy, mode="min")
    handed.suggest("a")
    handed.on_trial_result("a", row(1, 0.5))
    handed.on_trial_complete("a", row(2, 0.6, finished=True))
    assert strategy.told == [(0, TrialState.COMPLETE, 0.5)]


def test_a_trial_that_the_scheduler_stopped_is_told_as_pruned() -> None:
    strategy = Recorded()
    handed = searcher(strategy)
    handed.suggest("a")
    handed.on_trial_complete("a", row(1, 0.5, finished=False))
    assert strategy.told == [(0, TrialState.PRUNED, None)]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, True),
        (row(2, 0.9), True),
        ({"interrupted": True}, False),
        ({"failed": "ModelError: too small"}, False),
        (row(1, math.nan, finished=True), False),
    ],
)
def test_a_trial_that_failed_was_interrupted_or_had_only_nan_is_told_as_failed(result: Any, error: bool) -> None:
    strategy = Recorded()
    handed = searcher(strategy)
    handed.suggest("a")
    handed.on_trial_complete("a", result, error=error)
    assert strategy.told == [(0, TrialState.FAIL, None)]


def test_nan_is_not_reported_and_the_best_before_it_counts() -> None:
    strategy = Recorded()
    handed = searcher(strategy)
    handed.suggest("a")
    handed.on_trial_result("a", row(1, math.nan))
    handed.on_trial_result("a", row(2, 0.4))
    handed.on_trial_complete("a", row(3, math.nan, finished=True))
    assert strategy.reports == [(0, 2, 0.4), (0, 3, 0.4)]
    assert strategy.told == [(0, TrialState.COMPLETE, 0.4)]


def test_a_trial_of_before_is_not_told_since_its_strategy_has_not_asked_for_it() -> None:
    strategy = Recorded()
    handed = searcher(strategy, resumed=[("0001", {"x": 7})])
    handed.suggest("a")
    handed.on_trial_result("a", row(2, 0.5))
    handed.on_trial_complete("a", row(3, 0.5, finished=True))
    assert (strategy.reports, strategy.told) == ([], [])


def test_optuna_takes_every_end_that_a_trial_can_have() -> None:
    strategy = build_strategy(config())
    handed = searcher(strategy)
    for trial in "abcd":
        handed.suggest(trial)
    handed.on_trial_result("a", row(1, 0.5))
    handed.on_trial_complete("a", row(2, 0.6, finished=True))
    handed.on_trial_complete("b", row(1, 0.1, finished=False))
    handed.on_trial_complete("c", None, error=True)
    handed.on_trial_complete("d", row(1, math.nan, finished=True))
    assert isinstance(handed.suggest("e"), dict)

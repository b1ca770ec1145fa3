"""Population-based training: who copies whom and when, and how PB2 chooses the values."""

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.tune.simulated import play
from tuneyard.trainers.config.search import Domain, TuneConfig
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.schedule.pb2 import GaussianProcess, GaussianProcessExplorer
from tuneyard.tune.schedule.population import Population
from tuneyard.tune.schedule.scheduler import NextLeg, Scheduler

LR = "optimizer.lr"
SPACE = {LR: Domain(loguniform=[1e-4, 1.0]), "optimizer.betas": Domain(choice=[[0.9, 0.99], [0.9, 0.999]])}
VALUES = {"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2}


def config(**settings: Any) -> TuneConfig:
    return TuneConfig.model_validate({"space": SPACE, "scheduler": "pbt", "trials": 4} | settings)


def population(**settings: Any) -> Scheduler:
    return build_scheduler(config(**settings), 9)


def overrides(lr: float) -> dict[str, Any]:
    return {LR: lr, "optimizer.betas": [0.9, 0.99]}


def begin(members: Scheduler, run_ids: str = "abcd") -> None:
    for place, run_id in enumerate(run_ids):
        members.began(run_id, overrides(10.0 ** -(place % 4)))


def come_to(members: Scheduler, epoch: int, values: dict[str, float]) -> None:
    for run_id, value in values.items():
        members.goes_on(run_id, epoch, value)
        members.paused(run_id, epoch)


def legs(members: Scheduler) -> list[NextLeg]:
    found = []
    while (leg := members.next_leg(exhausted=False)) is not None:
        found.append(leg)
    return found


def test_a_member_pauses_at_every_multiple_of_the_perturbation_interval() -> None:
    members = population(perturb_epochs=3)
    assert [members.leg_end("a", epoch) for epoch in (0, 2, 3, 5, 6)] == [3, 3, 6, 6, None]


def test_the_worst_goes_on_from_the_best_with_values_near_to_its() -> None:
    members = population()
    begin(members)
    come_to(members, 1, VALUES)
    *others, last = legs(members)
    assert others == [NextLeg("a"), NextLeg("b"), NextLeg("c")]
    assert (last.run_id, last.clone_of) == ("d", "a")
    assert set(last.changes) == set(SPACE)
    assert last.changes[LR] != 1e-3


def test_with_mode_min_the_greatest_value_is_the_worst() -> None:
    members = population(mode="min")
    begin(members)
    come_to(members, 1, VALUES)
    assert [(leg.run_id, leg.clone_of) for leg in legs(members)] == [("a", "d"), ("b", None), ("c", None), ("d", None)]


def test_a_share_of_the_members_is_replaced() -> None:
    members = population(trials=8, quantile=0.5)
    begin(members, "abcdefgh")
    come_to(members, 1, {run_id: -place / 10 for place, run_id in enumerate("abcdefgh")})
    copied = {leg.run_id: leg.clone_of for leg in legs(members)}
    assert [run_id for run_id, source in copied.items() if source] == list("efgh")
    assert {source for source in copied.values() if source} <= set("abcd")


def test_nobody_goes_on_before_the_whole_population_has_begun() -> None:
    members = population()
    begin(members, "abc")
    come_to(members, 1, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert legs(members) == []
    members.began("d", overrides(0.1))
    assert [leg.run_id for leg in legs(members)] == ["a", "b", "c"]


def test_a_population_that_will_not_become_larger_goes_on_as_it_is() -> None:
    members = population(trials=20)
    begin(members, "abc")
    come_to(members, 1, {"a": 0.1, "b": 0.2, "c": 0.3})
    first = members.next_leg(exhausted=True)
    assert first == NextLeg("a", "c", first.changes if first else {})
    assert [leg.run_id for leg in legs(members)] == ["b", "c"]


def test_with_values_of_too_few_members_nobody_is_replaced() -> None:
    members = population(trials=8)
    begin(members, "abcdefgh")
    come_to(members, 1, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert legs(members) == [NextLeg("a"), NextLeg("b"), NextLeg("c")]


def test_who_has_trained_least_goes_on_first() -> None:
    members = population()
    begin(members)
    come_to(members, 2, {"a": 0.5})
    come_to(members, 1, {"b": 0.4, "c": 0.3, "d": 0.2})
    assert [leg.run_id for leg in legs(members)] == ["b", "c", "d", "a"]


def test_a_member_that_has_ended_is_not_copied_but_counts() -> None:
    members = population(trials=5)
    begin(members, "abcde")
    come_to(members, 1, {"e": 0.9} | VALUES)
    members.gone("e")
    assert all(leg.clone_of is None for leg in legs(members))


def test_a_member_that_was_not_saved_yet_is_not_copied() -> None:
    members = population(trials=5)
    begin(members, "abcde")
    members.goes_on("e", 1, 0.9)
    come_to(members, 1, VALUES)
    assert [leg.clone_of for leg in legs(members)] == [None, None, None, "a"]


def test_a_member_that_stands_behind_is_not_copied() -> None:
    members = population()
    begin(members)
    come_to(members, 1, {"a": 0.5})
    come_to(members, 2, {"b": 0.4, "c": 0.3, "d": 0.2})
    assert [(leg.run_id, leg.clone_of) for leg in legs(members)] == [("a", None), ("b", None), ("c", None), ("d", None)]


def test_a_member_that_has_just_copied_is_not_copied_itself() -> None:
    members = population()
    begin(members)
    come_to(members, 2, {"a": 0.5})
    come_to(members, 1, {"c": 0.3, "d": 0.2})
    assert [(leg.run_id, leg.clone_of) for leg in legs(members)] == [("c", None), ("d", "a"), ("a", None)]
    come_to(members, 2, {"c": 0.1})
    come_to(members, 3, {"a": 0.15})
    # "d" is at the top by what it last had, but its own newest checkpoint is still of before its copy.
    assert [leg.clone_of for leg in legs(members)] == [None, None]


def test_a_value_that_is_not_finite_ends_its_member() -> None:
    members = population()
    begin(members)
    assert not members.goes_on("a", 1, math.nan)


def test_after_a_copy_the_member_stands_where_the_other_stood() -> None:
    members = population()
    begin(members)
    come_to(members, 2, {"a": 0.5})
    come_to(members, 1, {"b": 0.4, "c": 0.3, "d": 0.2})
    assert [leg.clone_of for leg in legs(members)][2] == "a"
    assert members.leg_end("d", 1) == 3
    come_to(members, 2, {"b": 0.6, "c": 0.7})
    come_to(members, 3, {"d": 0.1, "a": 0.8})
    assert [(leg.run_id, leg.clone_of) for leg in legs(members)] == [("b", None), ("c", None), ("a", None), ("d", "a")]


def decided(name: str, seed: int) -> list[NextLeg]:
    members = population(scheduler=name, seed=seed, trials=8)
    begin(members, "abcdefgh")
    found = []
    for epoch in range(1, 6):
        come_to(members, epoch, {run_id: math.sin(epoch * (place + 1)) for place, run_id in enumerate("abcdefgh")})
        found += legs(members)
    return found


@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_a_seed_decides_the_same_again_and_another_seed_otherwise(name: str) -> None:
    assert decided(name, 1) == decided(name, 1)
    assert decided(name, 1) != decided(name, 2)


def grown(name: str, curves: dict[str, list[float]], until: int) -> tuple[Scheduler, dict[str, dict[str, Any]]]:
    """A population at this epoch, and the values that its members have; `curves` become those of the copied ones."""
    members = population(scheduler=name, trials=len(curves))
    begin(members, "".join(curves))
    values = {run_id: overrides(10.0 ** -(place % 4)) for place, run_id in enumerate(curves)}
    for epoch in range(1, until + 1):
        come_to(members, epoch, {run_id: curve[epoch - 1] for run_id, curve in curves.items()})
        for leg in legs(members) if epoch < until else ():
            values[leg.run_id] = leg.changes or values[leg.run_id]
            if leg.clone_of:
                curves[leg.run_id][:epoch] = curves[leg.clone_of][:epoch]
    return members, values


@pytest.mark.parametrize(
    ("name", "early"),
    # PB2 is told after a resume that all legs had the newest values; so here nobody is copied before it.
    [("pbt", lambda place, epoch: math.sin(1.7 * place + epoch / 3)), ("pb2", lambda place, epoch: 0.5)],
)
def test_a_resumed_sweep_decides_as_the_uninterrupted_one(name: str, early: Callable[[int, int], float]) -> None:
    curves = {
        run_id: [early(place, epoch) if epoch < 3 else math.sin(2.1 * place) for epoch in range(1, 4)]
        for place, run_id in enumerate("abcdefgh")
    }
    whole, values = grown(name, curves, until=3)
    resumed = population(scheduler=name, trials=len(curves))
    for run_id, curve in curves.items():
        resumed.began(run_id, values[run_id])
        for epoch, value in enumerate(curve, start=1):
            resumed.goes_on(run_id, epoch, value)
        resumed.paused(run_id, 3)
    expected = legs(whole)
    assert legs(resumed) == expected
    assert sum(leg.clone_of is not None for leg in expected) == 2


def test_a_whole_population_comes_to_its_end() -> None:
    curves = {f"{number:04d}": [number + epoch / 10 for epoch in range(9)] for number in range(8)}
    assert set(play(population(trials=8), curves, workers=3).values()) == {9}


def gain(lr: float, epoch: int) -> float:
    """What a leg gains: most at a learning rate of 0.01."""
    return math.exp(-((math.log10(lr) + 2.0) ** 2)) / (1 + epoch)


def explored(make: Callable[[TuneConfig], Any]) -> list[float]:
    """The learning rates that an explorer goes to, from 0.3, after it has seen eight legs from all over the range."""
    found = []
    for seed in range(10):
        explorer = make(config(scheduler="pb2"))
        for place in range(8):
            lr = 10 ** (-4 + place / 2)
            explorer.learn(1, overrides(lr), gain(lr, 1))
        found.append(explorer.explore(overrides(0.3), 2, [], Random(seed))[LR])
    return found


def test_pb2_goes_where_legs_gained_most() -> None:
    apart = [abs(math.log10(lr) + 2.0) for lr in explored(GaussianProcessExplorer)]
    assert max(apart) < 0.8


class Listener:
    """An explorer that keeps what it is told, and explores nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float, float]] = []

    def learn(self, epoch: int, values: Mapping[str, Any], gain: float) -> None:
        self.told.append((epoch, values[LR], round(gain, 6)))

    def explore(
        self, values: Mapping[str, Any], epoch: int, training: Sequence[tuple[int, Mapping[str, Any]]], draws: Random
    ) -> dict[str, Any]:
        return {LR: 0.5}


def test_an_explorer_hears_what_each_leg_gained_and_with_which_values() -> None:
    listener = Listener()
    members = Population(config(mode="min", perturb_epochs=2), 9, listener)
    begin(members)
    for epoch in (1, 2):
        for run_id, value in VALUES.items():
            members.goes_on(run_id, epoch, value)
    assert listener.told == []  # what the metric was before the first leg, nobody knows
    for run_id in VALUES:
        members.paused(run_id, 2)
    assert [leg.clone_of for leg in legs(members)] == ["d", None, None, None]
    for run_id, before, after in (("a", 0.15, 0.1), ("b", 0.9, 0.5)):
        members.goes_on(run_id, 3, before)
        members.goes_on(run_id, 4, after)
    # "a" went on from where "d" was, at 0.2, and with other values; "b" from its own 0.4.
    assert listener.told == [(2, 0.5, 0.1), (2, 0.1, -0.1)]


def test_pb2_goes_by_what_legs_gained_lately() -> None:
    explorer = GaussianProcessExplorer(config(scheduler="pb2"))
    for epoch in (*range(1, 4), *range(21, 24)):
        best = -1.0 if epoch < 10 else -3.0
        for place in range(8):
            power = -4 + place / 2
            explorer.learn(epoch, overrides(10**power), math.exp(-((power - best) ** 2)))
    found = [explorer.explore(overrides(0.1), 24, [], Random(seed))[LR] for seed in range(5)]
    assert max(found) < 0.01


def test_pb2_sends_two_members_to_different_places() -> None:
    explorer = GaussianProcessExplorer(config(scheduler="pb2"))
    for place in range(8):
        lr = 10 ** (-4 + place / 2)
        explorer.learn(1, overrides(lr), math.cos(place * math.pi / 2))
    first = explorer.explore(overrides(0.3), 2, [], Random(0))
    second = explorer.explore(overrides(0.3), 2, [(2, first)], Random(0))
    assert abs(math.log10(first[LR]) - math.log10(second[LR])) > 0.2


def test_pb2_perturbs_until_it_has_seen_a_few_legs() -> None:
    explorer = GaussianProcessExplorer(config(scheduler="pb2"))
    found = [explorer.explore(overrides(0.1), 1, [], Random(seed))[LR] for seed in range(20)]
    assert pytest.approx(0.08) in found
    assert pytest.approx(0.12) in found


def test_a_gaussian_process_is_certain_where_it_has_seen_and_forgets() -> None:
    points, times = np.array([[0.2], [0.8]]), np.array([1.0, 1.0])
    process = GaussianProcess(times, points, np.array([1.0, -1.0]), length=0.2, forgotten=0.2, noise=1e-4)
    mean, variance = process.predict(np.array([1.0, 1.0, 9.0]), np.array([[0.2], [0.5], [0.2]]))
    assert mean[0] == pytest.approx(1.0, abs=0.01)
    assert mean[1] == pytest.approx(0.0, abs=0.01)
    assert variance[0] < 0.01 < 0.5 < variance[1]
    # Eight legs later (1 - 0.2)^(8/2) of the covariance is left.
    assert mean[2] == pytest.approx(0.8**4, abs=0.01)


def test_the_marginal_likelihood_tells_a_smooth_function_from_noise() -> None:
    points = np.linspace(0.0, 1.0, 30)[:, None]
    times, draws = np.ones(30), np.random.default_rng(0)
    smooth = GaussianProcess.fitted(times, points, np.sin(3 * points[:, 0]))
    noisy = GaussianProcess.fitted(times, points, draws.normal(size=30))
    assert (smooth.length, smooth.noise) == (0.2, 0.03)
    assert noisy.noise == 0.3


def test_population_keeps_to_its_protocol() -> None:
    members: Scheduler = Population(config(), 9, GaussianProcessExplorer(config()))
    assert members.next_leg(exhausted=True) is None

"""Budgets: what legs cost, when no more may begin, and that a sweep of uneven trials ends below its limit."""

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tuneyard.trainers.config.search import BudgetConfig
from tuneyard.trainers.config.training import Prices
from tuneyard.tune.budget import Budget, Spent

HOUR = 3600.0


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Desk:
    """A budget and its clock."""

    limits: dict[str, float]
    gpus: float = 1.0
    cpus: float = 4.0
    prices: Prices = field(default_factory=lambda: Prices(gpu_hour=2.0, cpu_hour=0.05))
    spent: Spent | None = None

    def __post_init__(self) -> None:
        self.clock = Clock()
        config = BudgetConfig.model_validate(self.limits)
        self.budget = Budget(
            config, cpus=self.cpus, gpus=self.gpus, prices=self.prices, spent=self.spent, clock=self.clock
        )

    def train(self, run_id: str, epochs: int, seconds: float, *, setup: float = 0.0) -> None:
        """A leg from its beginning to its end."""
        self.budget.leg_began(run_id, epochs)
        self.clock.move(setup)
        for _ in range(epochs):
            self.clock.move(seconds)
            self.budget.epoch_ended(run_id, seconds)
        self.budget.leg_ended(run_id)


def test_without_limits_everything_is_allowed_and_counted() -> None:
    desk = Desk({}, gpus=2.0)
    desk.train("0000", 4, HOUR / 4)
    desk.clock.move(HOUR)  # nothing runs: only the wall clock goes on
    assert desk.budget.allows(10**6)
    assert not desk.budget.exhausted()
    assert desk.budget.why() is None
    assert desk.budget.spent() == Spent(hours=2.0, gpu_hours=2.0, money=4.0)


def test_a_running_leg_counts_before_it_has_ended() -> None:
    desk = Desk({})
    desk.budget.leg_began("0000", 3)
    desk.clock.move(HOUR / 2)
    assert desk.budget.spent().gpu_hours == pytest.approx(0.5)


def test_cores_are_paid_where_there_is_no_gpu() -> None:
    desk = Desk({}, gpus=0.0, cpus=4.0)
    desk.train("0000", 1, HOUR)
    assert desk.budget.spent() == Spent(hours=1.0, gpu_hours=0.0, money=0.2)


def test_a_resume_goes_on_from_what_was_spent() -> None:
    desk = Desk({"hours": 3.0}, spent=Spent(hours=2.0, gpu_hours=1.0, money=5.0))
    desk.train("0000", 1, HOUR)
    assert desk.budget.spent() == Spent(hours=3.0, gpu_hours=2.0, money=7.0)
    assert desk.budget.exhausted()


def test_until_an_epoch_has_ended_a_leg_may_begin() -> None:
    desk = Desk({"hours": 1.0})
    desk.budget.leg_began("0000", 9)
    desk.clock.move(HOUR / 2)
    assert desk.budget.allows(9)


def test_legs_side_by_side_share_the_wall_clock() -> None:
    desk = Desk({"hours": 1.0})
    for run_id in ("0000", "0001"):
        desk.budget.leg_began(run_id, 3)
    desk.clock.move(HOUR / 6)
    for run_id in ("0000", "0001"):
        desk.budget.epoch_ended(run_id, HOUR / 6)
    assert desk.budget.allows(5)  # of six sixths of an hour five are left, for each
    assert not desk.budget.allows(6)


@pytest.mark.parametrize("limits", [{"gpu_hours": 1.5}, {"money": 3.0}])
def test_legs_side_by_side_add_up_in_gpu_hours_and_money(limits: dict[str, float]) -> None:
    desk = Desk(limits)
    for run_id in ("0000", "0001"):
        desk.budget.leg_began(run_id, 3)
    desk.clock.move(HOUR / 6)
    for run_id in ("0000", "0001"):
        desk.budget.epoch_ended(run_id, HOUR / 6)
    # 2 of 9 sixths of an hour are spent, and the two legs will need 4 more.
    assert desk.budget.allows(3)
    assert not desk.budget.allows(4)


def test_running_legs_are_reckoned_at_their_own_pace() -> None:
    desk = Desk({"gpu_hours": 2.0})
    for run_id, seconds in (("slow", HOUR / 4), ("quick", HOUR / 100)):
        desk.budget.leg_began(run_id, 3)
        desk.budget.epoch_ended(run_id, seconds)
    desk.budget.leg_ended("quick")
    # The slow one has half an hour to go; at the upper quartile, which is its pace, a new epoch takes a quarter.
    assert desk.budget.allows(6)
    assert not desk.budget.allows(7)


def test_an_epoch_that_takes_longer_than_expected_is_not_counted_twice() -> None:
    desk = Desk({"gpu_hours": 1.05})
    desk.train("0000", 1, HOUR / 10)
    desk.budget.leg_began("0000", 2)
    desk.clock.move(HOUR / 5)
    # 0.3 are spent; of two expected tenths the late epoch needs none any more, and the one after it 0.1.
    assert desk.budget.allows(6)
    assert not desk.budget.allows(7)


def test_what_a_leg_needs_beside_its_epochs_is_learnt() -> None:
    desk = Desk({"hours": 1.0})
    desk.train("0000", 1, HOUR / 10, setup=HOUR / 5)
    assert desk.budget.allows(4)  # 0.7 hours are left, and it takes 0.2 + 0.4
    assert not desk.budget.allows(6)


def test_a_limit_that_is_reached_stops_even_the_first_epoch() -> None:
    desk = Desk({"money": 2.0})
    desk.budget.leg_began("0000", 1)
    desk.clock.move(HOUR)
    assert desk.budget.exhausted()
    assert not desk.budget.allows(1)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            {"hours": 2.0},
            "not cover another 9 epochs: 1 of 2 hours (tune.budget.hours) are spent, and it takes about 2.25",
        ),
        (
            {"money": 3.0},
            "not cover another 9 epochs: 2 of 3 USD (tune.budget.money) are spent, and it takes about 4.5",
        ),
        ({"gpu_hours": 1.0}, "The budget is used up: 1 of 1 GPU-hours (tune.budget.gpu_hours) are spent."),
    ],
)
def test_the_user_is_told_which_limit_it_was(limits: dict[str, float], told: str) -> None:
    desk = Desk(limits)
    desk.train("0000", 4, HOUR / 4)
    assert not desk.budget.allows(9)
    assert told in str(desk.budget.why())


def test_a_leg_that_fits_ends_for_no_reason() -> None:
    desk = Desk({"hours": 2.0})
    desk.train("0000", 4, HOUR / 4)
    assert not desk.budget.allows(9)
    assert desk.budget.allows(3)
    assert desk.budget.why() is None


def test_a_run_without_a_leg_only_teaches_the_pace() -> None:
    desk = Desk({"hours": 1.0})
    desk.budget.epoch_ended("of before", HOUR / 2)
    assert desk.budget.spent() == Spent()
    assert not desk.budget.allows(3)


def test_a_leg_whose_end_nobody_told_is_paid_once() -> None:
    desk = Desk({})
    desk.budget.leg_began("0000", 3)
    desk.clock.move(HOUR)
    desk.budget.leg_began("0000", 3)
    desk.clock.move(HOUR)
    desk.budget.leg_ended("0000")
    desk.budget.leg_ended("0000")
    assert desk.budget.spent().gpu_hours == pytest.approx(2.0)


def test_limits_that_limit_nothing_are_told() -> None:
    desk = Desk({"gpu_hours": 1.0, "money": 1.0}, gpus=0.0, prices=Prices(gpu_hour=2.0))
    assert [text.split(" limits nothing")[0] for text in desk.budget.never_reached()] == [
        "tune.budget.gpu_hours", "tune.budget.money",
    ]  # fmt: skip
    assert Desk({"gpu_hours": 1.0, "money": 1.0}).budget.never_reached() == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limits", [{"hours": 4.0}, {"gpu_hours": 14.0}, {"money": 28.0}])
def test_a_sweep_of_uneven_trials_ends_at_its_limit(limits: dict[str, float], seed: int) -> None:
    desk, chance = Desk(limits), random.Random(seed)
    running: list[tuple[float, int, dict[str, Any]]] = []
    number = 0
    while running or number == 0:
        while len(running) < 4 and desk.budget.allows(epochs := chance.choice([1, 2, 6])):
            leg: dict[str, Any] = {"run": f"{number:04d}", "left": epochs, "pace": chance.lognormvariate(5.0, 0.5)}
            desk.budget.leg_began(leg["run"], epochs)
            heapq.heappush(running, (desk.clock() + 10.0 + leg["pace"], number, leg))
            number += 1
        at, order, leg = heapq.heappop(running)
        desk.clock.seconds = at
        desk.budget.epoch_ended(leg["run"], leg["pace"])
        leg["left"] -= 1
        if leg["left"] == 0 or desk.budget.exhausted():
            desk.budget.leg_ended(leg["run"])
        else:
            heapq.heappush(running, (at + leg["pace"], order, leg))
    spent = desk.budget.spent().model_dump()
    [(name, limit)] = limits.items()
    assert 0.93 * limit < spent[name] < 1.03 * limit

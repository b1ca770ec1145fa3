"""Plans: what the schedulers, folds, confirmation and budgets come to, and the ranges around it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import set_path, validate
from tuneyard.trainers.config.training import Prices
from tuneyard.tune.plan import Plan, Range, make_plan
from tuneyard.tune.rehearsal import Pace, Stage

STEADY = [Pace((60.0,))]
UNEVEN = [Pace((30.0, 32.0)), Pace((60.0, 61.0)), Pace((90.0,)), Pace((240.0, 250.0))]


def experiment(changes: dict[str, Any]) -> Experiment:
    tree: dict[str, Any] = {
        "name": "planned",
        "data": {"source": "digits"},
        "train": {"epochs": 9},
        "tune": {"search": "random", "scheduler": "asha", "space": {"optimizer.lr": {"loguniform": [0.001, 0.1]}}},
    }
    for key, value in changes.items():
        set_path(tree, key, value)
    return validate(tree, where="test_plan.py")


def stage(changes: dict[str, Any] | None = None, *, trials: int = 9, paces: Sequence[Pace] = STEADY) -> Stage:
    """Nine trials, two at a time, each on a GPU of 2 USD an hour, with a minute to the epoch."""
    return Stage(
        experiment(changes or {}), [{"optimizer.lr": 0.001 * (1 + number)} for number in range(trials)], paces,
        parallel=2, cpus=4.0, gpus=1.0, prices=Prices(gpu_hour=2.0),
    )  # fmt: skip


def same(values: Range, value: float) -> bool:
    return [values.low, values.expected, values.high] == pytest.approx([value] * 3)


def reached(plan: Plan) -> dict[int, tuple[float, float, float]]:
    return {rung.epoch: (rung.trials.low, rung.trials.expected, rung.trials.high) for rung in plan.rungs}


def test_without_a_scheduler_everything_is_known_beforehand() -> None:
    plan = make_plan(stage({"tune.scheduler": "none"}, trials=8))
    assert reached(plan) == {9: (8, 8, 8)}
    assert same(plan.completed, 8)
    assert same(plan.costs.epochs, 72)
    assert same(plan.costs.gpu_hours, 1.2)
    assert same(plan.costs.hours, 0.6)
    assert same(plan.costs.money, 2.4)


def test_asha_promotes_a_third_from_each_rung_or_more_as_the_order_has_it() -> None:
    plan = make_plan(stage(trials=27))
    rungs = reached(plan)
    assert list(rungs) == [1, 3, 9]
    assert rungs[1] == pytest.approx((27, 27, 27))
    low, expected, high = rungs[3]
    assert 9 <= low <= expected <= high < 27
    assert rungs[9][0] >= 1
    assert rungs[9][2] < high


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_scheduler_spends_less_than_none_and_more_than_the_grace_epochs(scheduler: str) -> None:
    plan = make_plan(stage({"tune.scheduler": scheduler}, trials=20))
    assert 20 < plan.costs.epochs.low <= plan.costs.epochs.expected <= plan.costs.epochs.high < 180
    assert plan.rungs[0].epoch == 1
    assert plan.rungs[-1].epoch == 9


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_trains_to_its_end(scheduler: str) -> None:
    plan = make_plan(stage({"tune.scheduler": scheduler}, trials=6))
    assert reached(plan) == {9: (6, 6, 6)}
    # A member that copies one which is ahead goes on from there, and is spared the epochs between.
    assert 48 < plan.costs.epochs.low <= plan.costs.epochs.high == 54


def test_a_searcher_that_learns_makes_for_more_promotions() -> None:
    learning = make_plan(stage({"tune.search": "tpe"}, trials=27))
    assert learning.costs.epochs.high > make_plan(stage(trials=27)).costs.epochs.high


def test_uneven_paces_make_the_range() -> None:
    even = make_plan(stage({"tune.scheduler": "none"}))
    uneven = make_plan(stage({"tune.scheduler": "none"}, paces=UNEVEN))
    assert even.costs.money.low == pytest.approx(even.costs.money.high)
    assert uneven.costs.money.high > 1.5 * uneven.costs.money.low
    assert same(uneven.costs.epochs, 81)
    assert uneven.epoch_s.low < uneven.epoch_s.expected < uneven.epoch_s.high


def test_folds_multiply_what_the_good_trials_cost() -> None:
    changes = {"tune.scheduler": "none", "tune.fold_p_value": 0.001}
    folded = make_plan(stage(changes | {"data.validation": {"folds": 3}}, trials=4))
    assert folded.folds == 3
    assert 2 * 36 < folded.costs.epochs.expected <= folded.costs.epochs.high <= 3 * 36


def test_one_fold_alone_is_one_run() -> None:
    plan = make_plan(stage({"tune.scheduler": "none", "data.validation": {"folds": 5, "fold": 2}}))
    assert plan.folds == 1
    assert same(plan.costs.epochs, 81)


def test_the_best_trials_are_confirmed_over_seeds() -> None:
    plan = make_plan(stage({"tune.scheduler": "none", "tune.confirm": {"top": 3, "seeds": 4}}))
    assert same(plan.confirming, 12)
    assert same(plan.costs.epochs, (9 + 12) * 9)


def test_trials_may_have_their_own_length() -> None:
    base = stage({"tune.scheduler": "none", "tune.space": {"train.epochs": {"choice": [2, 6]}}})
    plan = make_plan(replace(base, drawn=[{"train.epochs": 2}, {"train.epochs": 6}, {"train.epochs": 6}]))
    assert same(plan.costs.epochs, 14)
    assert plan.rungs[-1].epoch == 6


def test_what_cannot_be_trained_fails_at_once_and_costs_nothing() -> None:
    plan = make_plan(stage({"tune.scheduler": "none"}, trials=40, paces=[*STEADY * 3, Pace(())]))
    assert plan.failed == 0.25
    assert 360 * 0.3 < plan.costs.epochs.expected < 360 * 0.95


def test_making_a_model_and_starting_up_take_their_time() -> None:
    bare = stage({"tune.scheduler": "none"}, trials=8)
    plan = make_plan(replace(bare, setup_s=36.0, startup_s=72.0))
    assert same(plan.costs.gpu_hours, 1.2 + 8 * 0.01)
    assert same(plan.costs.hours, 0.6 + 4 * 0.01 + 0.02)


def test_more_at_a_time_is_sooner_and_no_dearer() -> None:
    two = stage({"tune.scheduler": "none"}, trials=8)
    plan = make_plan(replace(two, parallel=8))
    assert same(plan.costs.hours, 0.15)
    assert same(plan.costs.money, 2.4)


@pytest.mark.parametrize("scheduler", ["asha", "median", "pbt", "none"])
def test_nothing_exceeds_the_ceiling(scheduler: str) -> None:
    changes = {"tune.scheduler": scheduler, "tune.confirm": {"top": 2, "seeds": 2}}
    plan = make_plan(replace(stage(changes, trials=12, paces=UNEVEN), setup_s=5.0, startup_s=9.0))
    assert plan.ceiling.epochs.high == (12 + 4) * 9
    for values, most in (
        (plan.costs.epochs, plan.ceiling.epochs), (plan.costs.hours, plan.ceiling.hours),
        (plan.costs.gpu_hours, plan.ceiling.gpu_hours), (plan.costs.money, plan.ceiling.money),
    ):  # fmt: skip
        assert values.high <= most.high


def test_the_ceiling_knows_that_the_last_run_may_be_waited_for_alone() -> None:
    plan = make_plan(stage({"tune.scheduler": "none"}, trials=3))
    assert same(plan.costs.hours, 0.3)
    assert same(plan.ceiling.hours, 0.3)


def test_a_budget_that_suffices_changes_nothing() -> None:
    plan = make_plan(stage({"tune.scheduler": "none", "tune.budget": {"money": 50.0}}))
    assert plan.budget is not None
    assert plan.budget.fits == 1.0
    assert plan.budget.ended_by is None
    assert plan.budget.costs == plan.costs


@pytest.mark.parametrize(("limit", "value"), [("hours", 0.4), ("gpu_hours", 0.7), ("money", 1.4)])
def test_with_a_budget_the_plan_says_how_far_the_sweep_gets(limit: str, value: float) -> None:
    plan = make_plan(stage({"tune.scheduler": "none", f"tune.budget.{limit}": value}, paces=UNEVEN))
    assert plan.budget is not None
    assert plan.budget.fits < 0.1
    assert 0 < plan.budget.trials.low <= plan.budget.trials.high < 9
    assert f"tune.budget.{limit}" in str(plan.budget.ended_by)
    assert getattr(plan.budget.costs, limit).high < 1.25 * value
    assert same(plan.costs.epochs, 81)  # of the whole sweep, as if there were no budget


def test_a_plan_is_the_same_each_time() -> None:
    assert make_plan(stage(paces=UNEVEN)) == make_plan(stage(paces=UNEVEN))

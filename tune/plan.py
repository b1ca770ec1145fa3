"""What a sweep would come to: trials, rungs, epochs, time, GPU-hours and money, each with its range. Starts nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tuneyard.trainers.config.search import BudgetConfig
from tuneyard.tune.budget import SECONDS_PER_HOUR, price_per_hour
from tuneyard.tune.rehearsal import Rehearsal, Rehearsed, Stage

LEARNING_TREND = 2.0  # the most that a searcher's last trials are taken to be better, in what trials differ by
LOW, HIGH = 0.05, 0.95
FEWEST, MOST, EVENTS = 8, 40, 20_000


@dataclass(frozen=True, slots=True)
class Range:
    """The middle of what the rehearsed sweeps came to, and where nine in ten of them lie."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True)
class Rung:
    """How many trials train at least so many epochs (their first fold, where there are folds)."""

    epoch: int
    trials: Range


@dataclass(frozen=True, slots=True)
class Costs:
    """Epochs of training over all runs, and what they take."""

    epochs: Range
    hours: Range
    gpu_hours: Range
    money: Range


@dataclass(frozen=True, slots=True)
class WithinBudget:
    """How far the sweep gets with its budget.

    Attributes:
        fits: share of the rehearsed sweeps that end before the budget does, 0 to 1.
        trials: trials that begin; `completed`: trials with all their epochs (and folds).
        ended_by: the sentence of one of those that the budget ended.
    """

    fits: float
    trials: Range
    completed: Range
    costs: Costs
    ended_by: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep before it starts.

    Attributes:
        trials: configurations tried. `folds`: runs of each that is worth it; 1 without cross-validation.
        rungs: in the order of epochs; the last one is the end.
        confirming: runs that repeat the best trials with other seeds.
        failed: share of the trials that cannot be trained, 0 to 1.
        ceiling: the same if no trial were stopped, at the slowest measured pace: nothing but failures costs more.
        epoch_s: seconds per epoch of the configurations measured.
        rehearsals: how many sweeps were played through.
    """

    trials: int
    parallel: int
    folds: int
    rungs: list[Rung]
    completed: Range
    confirming: Range
    failed: float
    costs: Costs
    ceiling: Costs
    epoch_s: Range
    rehearsals: int
    budget: WithinBudget | None


def make_plan(stage: Stage) -> Plan:
    """Play the sweep through many times, and say what it came to. At least one pace must have samples.

    The range comes from the measured paces, which are drawn anew for each rehearsal, from the order in which good and
    bad trials come, on which the number of promotions depends, and from how much the searcher learns meanwhile.
    """
    # As many as can be played in a few seconds.
    [first] = _play(stage, BudgetConfig(), 1)
    # The test between folds after each leg takes as long as twenty other events.
    events = first.epochs + first.legs * (20 if _folds(stage) > 1 else 1)
    count = max(FEWEST, min(MOST, EVENTS // max(events, 1)))
    played = _play(stage, BudgetConfig(), count)
    limits = stage.config.budget
    limited = limits != BudgetConfig()
    paces = [second for pace in stage.paces for second in pace.epoch_s]
    return Plan(
        trials=len(stage.drawn),
        parallel=stage.parallel,
        folds=_folds(stage),
        rungs=_rungs(stage, played),
        completed=_range(one.completed for one in played),
        confirming=_range(one.confirming for one in played),
        failed=sum(not pace.epoch_s for pace in stage.paces) / len(stage.paces),
        costs=_costs(played),
        ceiling=_ceiling(stage, max(paces), 1 + len(set().union(*(one.pauses for one in played)))),
        epoch_s=_range(paces),
        rehearsals=count,
        budget=_within(_play(stage, limits, count)) if limited else None,
    )


def _play(stage: Stage, budget: BudgetConfig, count: int) -> list[Rehearsed]:
    # A random search gets no better, and a grid is in no order that matters.
    trend = 0.0 if stage.config.search in ("random", "grid") else LEARNING_TREND
    return [
        Rehearsal(stage, budget, seed=stage.config.seed + number, trend=trend * number / max(count - 1, 1)).play()
        for number in range(count)
    ]


def _costs(played: Sequence[Rehearsed]) -> Costs:
    return Costs(
        epochs=_range(one.epochs for one in played),
        hours=_range(one.spent.hours for one in played),
        gpu_hours=_range(one.spent.gpu_hours for one in played),
        money=_range(one.spent.money for one in played),
    )


def _rungs(stage: Stage, played: Sequence[Rehearsed]) -> list[Rung]:
    config = stage.config
    pauses = set().union(*(one.pauses for one in played))
    if config.scheduler == "median":
        pauses = {config.grace_epochs}
    elif config.scheduler in ("pbt", "pb2"):
        pauses = set()  # at its pauses a population copies; all its members go on
    last = max(_last_epoch(stage, overrides) for overrides in stage.drawn)
    return [
        Rung(epoch, _range(sum(reached >= epoch for reached in one.reached) for one in played))
        for epoch in [*sorted(pause for pause in pauses if pause < last), last]
    ]


def _ceiling(stage: Stage, epoch_s: float, legs_per_run: int) -> Costs:
    """Every run to its end, all at this pace."""
    folds, confirm = _folds(stage), stage.config.confirm
    lengths = sorted((_last_epoch(stage, overrides) for overrides in stage.drawn), reverse=True)
    repeated = lengths[: confirm.top] * confirm.seeds if confirm else []
    runs = (lengths + repeated) * folds
    legs_s = legs_per_run * stage.setup_s
    held_s = sum(runs) * epoch_s + len(runs) * legs_s
    # Graham's bound (1966): the work shared out evenly, and the longest chain of runs that wait for each other.
    chain_s = (lengths[0] * epoch_s + legs_s) * (1 + (folds > 1) + bool(repeated))
    wall_s = stage.startup_s + held_s / stage.parallel + chain_s * (1 - 1 / stage.parallel)
    held = held_s / SECONDS_PER_HOUR
    money = held * price_per_hour(stage.prices, cpus=stage.cpus, gpus=stage.gpus)
    values = (float(sum(runs)), wall_s / SECONDS_PER_HOUR, held * stage.gpus, money)
    return Costs(*(Range(value, value, value) for value in values))


def _within(played: Sequence[Rehearsed]) -> WithinBudget:
    sentences = [one.ended_by for one in played if one.ended_by is not None]
    return WithinBudget(
        fits=1 - len(sentences) / len(played),
        trials=_range(one.trials for one in played),
        completed=_range(one.completed for one in played),
        costs=_costs(played),
        ended_by=sentences[len(sentences) // 2] if sentences else None,
    )


def _folds(stage: Stage) -> int:
    validation = stage.experiment.data.validation
    return (validation.folds or 1) if validation.every_fold else 1


def _last_epoch(stage: Stage, overrides: dict[str, Any]) -> int:
    return int(overrides.get("train.epochs", stage.experiment.train.epochs))


def _range(values: Iterable[float]) -> Range:
    """The median, and the values that nine in ten lie between; interpolated."""
    ordered = sorted(float(value) for value in values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = ordered[int(place)]
        above = ordered[min(int(place) + 1, len(ordered) - 1)]
        return below + (above - below) * (place - int(place))

    return Range(at(LOW), at(0.5), at(HIGH))

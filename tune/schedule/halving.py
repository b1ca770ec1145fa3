"""Successive halving without waiting: ASHA and, over several of its brackets, Hyperband. Knows nothing of Ray.

ASHA is Algorithm 2 of Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934): every run
pauses at each rung, and is promoted once it is among the best one in `factor` of all that reached that rung. Hyperband
(Li et al., arXiv 1603.06560) hedges against curves that cross late: it shares the epochs out among brackets whose first
rungs lie at more and more epochs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.schedule.scheduler import NextLeg


def asha(config: TuneConfig, epochs: int) -> "Halving":
    """One bracket, with rungs at `grace_epochs` times powers of `reduction_factor` below `epochs`."""
    return Halving([Bracket(config.grace_epochs, config.reduction_factor, epochs)], epochs, mode=config.mode)


def hyperband(config: TuneConfig, epochs: int) -> "Halving":
    """A bracket for every rung of `asha` as the first one, and one without any: its runs train all epochs."""
    grace, factor = config.grace_epochs, config.reduction_factor
    firsts = [*rung_epochs(grace, factor, epochs), epochs]
    return Halving([Bracket(first, factor, epochs) for first in firsts], epochs, mode=config.mode)


def rung_epochs(grace: int, factor: int, epochs: int) -> list[int]:
    """`grace`, `grace·factor`, `grace·factor²`, … below `epochs`."""
    rungs = []
    rung = grace
    while rung < epochs:
        rungs.append(rung)
        rung *= factor
    return rungs


class Bracket:
    """Who reached which rung with which value, and who waits where. Greater values are better.

    Equal values rank in the order in which their runs began, whatever the order in which they came in: so a resumed
    sweep, which hears of one run after the other, decides as the uninterrupted one.
    """

    def __init__(self, grace: int, factor: int, epochs: int) -> None:
        self.rungs = rung_epochs(grace, factor, epochs)
        self._factor = factor
        self._reached: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}
        self._waiting: dict[str, int] = {}
        ends = [*self.rungs, epochs]
        lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        self.epochs_per_run = sum(length / factor**rung for rung, length in enumerate(lengths))
        """What a run costs on average, in epochs."""

    def next_rung(self, epoch: int) -> int | None:
        """The first rung above `epoch`."""
        return next((rung for rung in self.rungs if rung > epoch), None)

    def reach(self, run_id: str, epoch: int, value: float) -> None:
        """The run came to `epoch`; counts where that is a rung, and then goes on from there or waits."""
        self._waiting.pop(run_id, None)
        if epoch in self._reached:
            self._reached[epoch][run_id] = value

    def diverge(self, run_id: str, epoch: int) -> None:
        """The run ends at `epoch` without a value: it counts as the worst at the rung that it was on its way to."""
        self.drop(run_id)
        rung = self.next_rung(epoch - 1)
        if rung is not None:
            self._reached[rung][run_id] = -math.inf

    def wait(self, run_id: str, epoch: int) -> None:
        """The run waits at this epoch."""
        self._waiting[run_id] = epoch

    def drop(self, run_id: str) -> None:
        """The run waits no more; what it reached still counts."""
        self._waiting.pop(run_id, None)

    def promotable(self, order: Mapping[str, int], *, rank_matters: bool = True) -> tuple[int, float, str] | None:
        """Rung, value and id of the waiting run that should go on first: the highest rung's, there the best.

        rank_matters: only where it is among the best one in `factor` at its rung. A run that waits between two rungs,
        since it was paused when the sweep had others, always goes on to the next one.
        """
        for run_id, epoch in self._waiting.items():
            if epoch not in self._reached:
                return epoch, math.inf, run_id
        for rung in reversed(self.rungs):
            reached = self._reached[rung]
            ranked = sorted(reached, key=lambda run_id: (-reached[run_id], order[run_id]))
            kept = ranked[: len(ranked) // self._factor] if rank_matters else ranked
            for run_id in kept:
                if self._waiting.get(run_id) == rung and math.isfinite(reached[run_id]):
                    return rung, reached[run_id], run_id
        return None


class Halving:
    """The scheduler over one bracket (ASHA) or several (Hyperband). A run's best value so far is what counts.

    Each new run goes to the bracket that would have cost the fewest epochs so far with it, counted by what a run costs
    there on average: so all brackets get the same epochs, and who is where depends on nothing but the runs' order.
    """

    def __init__(self, brackets: Sequence[Bracket], epochs: int, *, mode: str) -> None:
        self._brackets = list(brackets)
        self._epochs = epochs
        self._sign = 1.0 if mode == "max" else -1.0
        self._dealt = [0] * len(self._brackets)
        self._bracket_of: dict[str, Bracket] = {}
        self._order: dict[str, int] = {}
        self._last_epoch: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._one_completed = False

    def began(self, run_id: str, overrides: Mapping[str, Any]) -> None:
        """Deal a new run to a bracket."""
        if run_id not in self._bracket_of:
            chosen = self._next_bracket()
            self._dealt[chosen] += 1
            self._bracket_of[run_id] = self._brackets[chosen]
            self._order[run_id] = len(self._order)
        self._last_epoch[run_id] = overrides.get("train.epochs", self._epochs)

    def leg_end(self, run_id: str, epoch: int) -> int | None:
        """The next rung of its bracket; for a run that did not begin yet, of the bracket that it would be dealt to."""
        bracket = self._bracket_of.get(run_id) or self._brackets[self._next_bracket()]
        return bracket.next_rung(epoch)

    def goes_on(self, run_id: str, epoch: int, value: float) -> bool:
        """Note the best value so far; only a value that is not finite ends a run, the others wait at their rungs."""
        bracket = self._bracket_of[run_id]
        if not math.isfinite(value):
            bracket.diverge(run_id, epoch)
            return False
        self._best[run_id] = max(self._sign * value, self._best.get(run_id, -math.inf))
        bracket.reach(run_id, epoch, self._best[run_id])
        self._one_completed = self._one_completed or epoch >= self._last_epoch[run_id]
        return True

    def paused(self, run_id: str, epoch: int) -> None:
        """The run waits at its rung."""
        self._bracket_of[run_id].wait(run_id, epoch)

    def next_leg(self, *, exhausted: bool) -> NextLeg | None:
        """The promotable run at the highest rung, there the best one.

        Too few runs for another promotion would leave a sweep without any that has trained to the end. So when nothing
        else is to come, the best of the highest rung goes on, until one has.
        """
        found = self._first(rank_matters=True)
        if found is None and exhausted and not self._one_completed:
            found = self._first(rank_matters=False)
        if found is None:
            return None
        self._bracket_of[found].drop(found)
        return NextLeg(found)

    def gone(self, run_id: str) -> None:
        """It is not promoted any more; what it reached still counts."""
        self._bracket_of[run_id].drop(run_id)

    def _next_bracket(self) -> int:
        costs = [(count + 1) * one.epochs_per_run for count, one in zip(self._dealt, self._brackets, strict=True)]
        return costs.index(min(costs))

    def _first(self, *, rank_matters: bool) -> str | None:
        found = [bracket.promotable(self._order, rank_matters=rank_matters) for bracket in self._brackets]
        ranked = [one for one in found if one is not None]
        return max(ranked, key=lambda one: (one[0], one[1], -self._order[one[2]]))[2] if ranked else None
